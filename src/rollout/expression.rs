//! Arithmetic as a calculator reads it: numbers, `+ - * /`, brackets and signs.

/// Deepest nesting of brackets and signs.
const MOST_DEPTH: usize = 50;

/// The value of an expression. Errors are what a calculator would show.
pub fn evaluate(text: &str) -> Result<f64, &'static str> {
    let mut reader = Reader { text: text.as_bytes(), at: 0 };
    let value = reader.sum(0)?;
    reader.skip_spaces();
    if reader.at < reader.text.len() {
        return Err(UNREADABLE);
    }
    if value.is_finite() { Ok(value) } else { Err("division by zero") }
}

/// A number without needless digits: at most two after the point.
pub fn shown(value: f64) -> String {
    if value == value.trunc() && value.abs() < 1e15 { format!("{value:.0}") } else { format!("{value:.2}") }
}

const UNREADABLE: &str = "cannot read the expression";

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn skip_spaces(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    /// Takes the next byte, where it is one of these.
    fn take(&mut self, wanted: &[u8]) -> Option<u8> {
        self.skip_spaces();
        let byte = *self.text.get(self.at).filter(|byte| wanted.contains(byte))?;
        self.at += 1;
        Some(byte)
    }

    fn sum(&mut self, depth: usize) -> Result<f64, &'static str> {
        let mut value = self.product(depth)?;
        while let Some(sign) = self.take(b"+-") {
            let next = self.product(depth)?;
            value = if sign == b'+' { value + next } else { value - next };
        }
        Ok(value)
    }

    fn product(&mut self, depth: usize) -> Result<f64, &'static str> {
        let mut value = self.factor(depth)?;
        while let Some(sign) = self.take(b"*/") {
            let next = self.factor(depth)?;
            value = if sign == b'*' { value * next } else { value / next };
        }
        Ok(value)
    }

    fn factor(&mut self, depth: usize) -> Result<f64, &'static str> {
        if depth > MOST_DEPTH {
            return Err(UNREADABLE);
        }
        match self.take(b"+-(") {
            Some(b'-') => Ok(-self.factor(depth + 1)?),
            Some(b'+') => self.factor(depth + 1),
            Some(_) => {
                let value = self.sum(depth + 1)?;
                self.take(b")").map(|_| value).ok_or(UNREADABLE)
            }
            None => self.number(),
        }
    }

    fn number(&mut self) -> Result<f64, &'static str> {
        let start = self.at;
        while self.text.get(self.at).is_some_and(|byte| byte.is_ascii_digit() || *byte == b'.') {
            self.at += 1;
        }
        let digits = std::str::from_utf8(&self.text[start..self.at]).map_err(|_| UNREADABLE)?;
        digits.parse().map_err(|_| UNREADABLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_by_hand() {
        for (text, expected) in [
            ("3 + 4", Ok(7.0)),
            ("12*7", Ok(84.0)),
            ("2 + 3 * 4 - 1", Ok(13.0)),
            ("(2 + 3) * 4", Ok(20.0)),
            ("7 / 2", Ok(3.5)),
            ("8 - 3 - 2", Ok(3.0)),
            ("-3 * -(2)", Ok(6.0)),
            (" .5 ", Ok(0.5)),
            ("1 / 0", Err("division by zero")),
            ("3 plus 4", Err(UNREADABLE)),
            ("3 4", Err(UNREADABLE)),
            ("(3", Err(UNREADABLE)),
            ("3 +", Err(UNREADABLE)),
            ("1.2.3", Err(UNREADABLE)),
            ("", Err(UNREADABLE)),
            ("2 ** 3", Err(UNREADABLE)),
        ] {
            assert_eq!(evaluate(text), expected, "{text}");
        }
        assert_eq!(evaluate(&"(".repeat(100_000)), Err(UNREADABLE), "no overflow of the stack");
        assert_eq!([84.0, 3.5, 2.0 / 3.0, -0.5].map(shown), ["84", "3.50", "0.67", "-0.50"]);
    }
}
