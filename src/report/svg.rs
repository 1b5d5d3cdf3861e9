//! Charts as inline SVG: axes with round ticks, labels beside what they name, colours from the page's classes.

use std::fmt::Write as _;

/// Height of a character cell and mean width of a character, in units of the drawing, which are pixels at full size.
const LINE: f64 = 15.0;
const CHARACTER: f64 = 6.6;

/// A line with its band.
#[derive(Debug, Clone, Default)]
pub struct Series {
    pub name: String,
    /// Class of the page that colours it.
    pub class: &'static str,
    pub points: Vec<Point>,
}

#[derive(Debug, Clone, Default)]
pub struct Point {
    pub x: f64,
    pub y: f64,
    /// Half the height of the band.
    pub margin: Option<f64>,
    /// What is said when it is pointed at.
    pub title: String,
}

/// Lines over one axis.
#[derive(Debug, Clone, Default)]
pub struct Plot {
    /// What it shows, for those who do not see it.
    pub label: String,
    pub series: Vec<Series>,
    /// Names of whole positions of the axis, from 0; empty where the axis counts.
    pub names: Vec<String>,
    pub x_title: &'static str,
    /// The range that is shown at least.
    pub at_least: Option<(f64, f64)>,
}

/// A stack of parts, one column.
#[derive(Debug, Clone, Default)]
pub struct Column {
    pub name: String,
    /// Class of the page, value, and what is said when it is pointed at.
    pub parts: Vec<(&'static str, f64, String)>,
}

/// Text as it may stand in an element or an attribute.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// Round values that cover a range: multiples of 1, 2 or 5 times a power of ten, about `count` of them.
///
/// Returns the step and the values; one value where the range is empty.
pub fn ticks(low: f64, high: f64, count: usize) -> (f64, Vec<f64>) {
    let span = high - low;
    if !(span.is_finite() && span > 0.0) {
        return (1.0, vec![if low.is_finite() { low } else { 0.0 }]);
    }
    let rough = span / count.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= rough * 0.999).unwrap_or(power);
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (step, (first..=last).map(|tick| tick as f64 * step).collect())
}

/// A number with as many digits as its tick step needs.
pub fn tick_label(value: f64, step: f64) -> String {
    let digits = (-(step.log10() + 1e-9).floor()).clamp(0.0, 9.0) as usize;
    let text = if step < 1e-4 { format!("{value:.0e}") } else { format!("{value:.digits$}") };
    if text.trim_start_matches('-').chars().all(|c| matches!(c, '0' | '.')) { "0".to_owned() } else { text.replace('-', "−") }
}

/// The range of some values, widened to round ticks.
fn range(values: impl Iterator<Item = f64>, at_least: Option<(f64, f64)>) -> (f64, f64) {
    let (mut low, mut high) = at_least.unwrap_or((f64::INFINITY, f64::NEG_INFINITY));
    for value in values.filter(|value| value.is_finite()) {
        (low, high) = (low.min(value), high.max(value));
    }
    if low > high {
        return (0.0, 1.0);
    }
    if low == high {
        let room = 0.1 * low.abs();
        return if low == 0.0 { (0.0, 1.0) } else { (low - room, high + room) };
    }
    let (step, _) = ticks(low, high, 4);
    ((low / step).floor() * step, (high / step).ceil() * step)
}

fn open(width: f64, height: f64, label: &str) -> String {
    format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">", escape(label))
}

/// A point's place; shorter than a pixel is not seen.
fn at(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// Where the values of both axes are in the drawing.
struct Frame {
    x: (f64, f64),
    y: (f64, f64),
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Frame {
    fn x(&self, value: f64) -> f64 {
        let share = if self.x.1 > self.x.0 { (value - self.x.0) / (self.x.1 - self.x.0) } else { 0.5 };
        self.left + share * (self.right - self.left)
    }

    fn y(&self, value: f64) -> f64 {
        let share = if self.y.1 > self.y.0 { (value - self.y.0) / (self.y.1 - self.y.0) } else { 0.5 };
        self.bottom - share * (self.bottom - self.top)
    }

    /// Lines and numbers of the vertical axis.
    fn grid(&self, out: &mut String, count: usize) {
        let (step, values) = ticks(self.y.0, self.y.1, count);
        for value in values {
            let y = at(self.y(value));
            let class = if value == 0.0 { "zero" } else { "grid" };
            let _ =
                write!(out, "<line class=\"{class}\" x1=\"{}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\"/>", at(self.left), at(self.right));
            let _ = write!(
                out,
                "<text class=\"tick\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
                at(self.left - 8.0),
                at(self.y(value) + 4.0),
                tick_label(value, step)
            );
        }
    }

    /// Names below the horizontal axis, as many as have room.
    fn below(&self, out: &mut String, labels: &[(f64, String)], title: &str) {
        let widest = labels.iter().map(|(_, text)| text.chars().count()).max().unwrap_or(0) as f64 * CHARACTER + 14.0;
        let room = ((self.right - self.left + widest) / widest).floor().max(1.0) as usize;
        let every = labels.len().div_ceil(room).max(1);
        for (index, (value, text)) in labels.iter().enumerate() {
            if index % every != 0 {
                continue;
            }
            let half = text.chars().count() as f64 * CHARACTER / 2.0;
            let x = self.x(*value).max(half);
            let _ = write!(
                out,
                "<text class=\"tick\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                at(x),
                at(self.bottom + LINE + 3.0),
                escape(text)
            );
        }
        if !title.is_empty() {
            let _ = write!(
                out,
                "<text class=\"axis\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                at((self.left + self.right) / 2.0),
                at(self.bottom + 2.0 * LINE + 6.0),
                escape(title)
            );
        }
    }
}

/// Lines with bands, each named at its end.
pub fn lines(plot: &Plot, width: f64, height: f64) -> String {
    let points = || plot.series.iter().flat_map(|series| &series.points);
    let ends = points().flat_map(|point| {
        let margin = point.margin.filter(|margin| margin.is_finite()).unwrap_or(0.0);
        [point.y - margin, point.y + margin]
    });
    let y = range(ends, plot.at_least);
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for point in points() {
        (low, high) = (low.min(point.x), high.max(point.x));
    }
    let named = plot.series.iter().map(|series| series.name.chars().count()).max().unwrap_or(0) as f64 * CHARACTER;
    let bottom = height - if plot.x_title.is_empty() { LINE + 8.0 } else { 2.0 * LINE + 12.0 };
    let right = width - if named > 0.0 { named + 14.0 } else { 10.0 };
    let frame = Frame { x: (low, high), y, left: 44.0, right, top: 10.0, bottom };
    let mut out = open(width, height, &plot.label);
    frame.grid(&mut out, 5);
    let labels: Vec<(f64, String)> = match plot.names.is_empty() {
        false => plot.names.iter().enumerate().map(|(index, name)| (index as f64, name.clone())).collect(),
        true => {
            let (step, values) = ticks(low, high, ((right - 44.0) / 60.0) as usize);
            let whole = values.into_iter().filter(|value| value.fract() == 0.0);
            whole.map(|value| (value, tick_label(value, step.max(1.0)))).collect()
        }
    };
    frame.below(&mut out, &labels, plot.x_title);
    for series in &plot.series {
        band(&mut out, &frame, series);
    }
    for series in &plot.series {
        let path: Vec<String> =
            series.points.iter().map(|point| format!("{} {}", at(frame.x(point.x)), at(frame.y(point.y)))).collect();
        if path.len() > 1 {
            let _ = write!(out, "<path class=\"line {}\" d=\"M{}\"/>", series.class, path.join("L"));
        }
        let radius = if series.points.len() > 40 { 1.6 } else { 2.8 };
        for point in &series.points {
            let _ = write!(
                out,
                "<circle class=\"dot {}\" cx=\"{}\" cy=\"{}\" r=\"{radius}\"><title>{}</title></circle>",
                series.class,
                at(frame.x(point.x)),
                at(frame.y(point.y)),
                escape(&point.title)
            );
        }
    }
    let last = |series: &Series| series.points.last().map_or(bottom, |point| frame.y(point.y));
    let places = apart(&plot.series.iter().map(last).collect::<Vec<_>>(), LINE, frame.top + 4.0, frame.bottom);
    for (series, y) in plot.series.iter().zip(places).filter(|(series, _)| !series.name.is_empty()) {
        let name = escape(&series.name);
        let _ =
            write!(out, "<text class=\"name {}\" x=\"{}\" y=\"{}\">{name}</text>", series.class, at(right + 9.0), at(y + 4.0));
    }
    out.push_str("</svg>");
    out
}

fn band(out: &mut String, frame: &Frame, series: &Series) {
    let known: Vec<(&Point, f64)> =
        series.points.iter().filter_map(|point| Some((point, point.margin.filter(|margin| margin.is_finite())?))).collect();
    match known.as_slice() {
        [] => {}
        [(point, margin)] => {
            let x = at(frame.x(point.x));
            let (top, bottom) = (at(frame.y(point.y + margin)), at(frame.y(point.y - margin)));
            let _ = write!(out, "<path class=\"whisker {}\" d=\"M{x} {top}L{x} {bottom}\"/>", series.class);
        }
        _ => {
            let place = |point: &Point, y: f64| format!("{} {}", at(frame.x(point.x)), at(frame.y(y)));
            let upper = known.iter().map(|(point, margin)| place(point, point.y + margin));
            let lower = known.iter().rev().map(|(point, margin)| place(point, point.y - margin));
            let outline: Vec<String> = upper.chain(lower).collect();
            let _ = write!(out, "<path class=\"band {}\" d=\"M{}Z\"/>", series.class, outline.join("L"));
        }
    }
}

/// Heights of labels that do not touch: as near as can be to where they belong.
fn apart(wanted: &[f64], gap: f64, top: f64, bottom: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|one, other| wanted[*one].total_cmp(&wanted[*other]));
    let mut places = wanted.to_vec();
    let mut free = top;
    for index in &order {
        places[*index] = places[*index].max(free);
        free = places[*index] + gap;
    }
    let mut limit = bottom;
    for index in order.iter().rev() {
        places[*index] = places[*index].min(limit);
        limit = places[*index] - gap;
    }
    places
}

/// Columns of stacked parts.
pub fn columns(label: &str, columns: &[Column], width: f64, height: f64) -> String {
    let total = |column: &Column| column.parts.iter().map(|part| part.1).sum::<f64>();
    let y = range(columns.iter().map(total), Some((0.0, 0.0)));
    let frame =
        Frame { x: (0.0, columns.len() as f64), y, left: 48.0, right: width - 8.0, top: 10.0, bottom: height - LINE - 8.0 };
    let mut out = open(width, height, label);
    frame.grid(&mut out, 4);
    let slot = (frame.right - frame.left) / columns.len().max(1) as f64;
    let wide = (slot * 0.72).min(46.0);
    for (index, column) in columns.iter().enumerate() {
        let x = frame.left + (index as f64 + 0.5) * slot - wide / 2.0;
        let mut below = 0.0;
        for (class, value, title) in column.parts.iter().filter(|part| part.1 > 0.0) {
            let (top, bottom) = (frame.y(below + value), frame.y(below));
            let _ = write!(
                out,
                "<rect class=\"bar {class}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"><title>{}</title></rect>",
                at(x),
                at(top),
                at(wide),
                at((bottom - top).max(0.5)),
                escape(title)
            );
            below += value;
        }
    }
    let names: Vec<(f64, String)> =
        columns.iter().enumerate().map(|(index, column)| (index as f64 + 0.5, column.name.clone())).collect();
    frame.below(&mut out, &names, "");
    out.push_str("</svg>");
    out
}

/// Bars side by side over an axis of numbers.
///
/// * `bars`: lower end, upper end, height.
pub fn histogram(label: &str, bars: &[(f64, f64, usize)], width: f64, height: f64) -> String {
    let y = range(bars.iter().map(|bar| bar.2 as f64), Some((0.0, 1.0)));
    let x = (bars.first().map_or(0.0, |bar| bar.0), bars.last().map_or(1.0, |bar| bar.1));
    let frame = Frame { x, y, left: 48.0, right: width - 12.0, top: 10.0, bottom: height - LINE - 8.0 };
    let mut out = open(width, height, label);
    frame.grid(&mut out, 4);
    for (low, high, count) in bars.iter().filter(|bar| bar.2 > 0) {
        let middle = (low + high) / 2.0;
        let class = if low * high < 0.0 {
            "none"
        } else if middle > 0.0 {
            "plus"
        } else {
            "minus"
        };
        let (left, right, top) = (frame.x(*low), frame.x(*high), frame.y(*count as f64));
        let _ = write!(
            out,
            "<rect class=\"bar {class}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"><title>{low:.3} to {high:.3}: {count} calls</title></rect>",
            at(left + 0.5),
            at(top),
            at((right - left - 1.0).max(0.5)),
            at((frame.bottom - top).max(0.5))
        );
    }
    let (step, values) = ticks(x.0, x.1, 6);
    let labels: Vec<(f64, String)> = values.into_iter().map(|value| (value, tick_label(value, step))).collect();
    frame.below(&mut out, &labels, "");
    out.push_str("</svg>");
    out
}

/// A line as small as a word, from 0; nothing of fewer than two values.
pub fn sparkline(label: &str, values: &[f64]) -> String {
    let (width, height) = (120.0, 24.0);
    if values.len() < 2 {
        return String::new();
    }
    let high = values.iter().copied().fold(0.0, f64::max);
    let frame = Frame {
        x: (0.0, (values.len() - 1) as f64),
        y: (0.0, if high > 0.0 { high } else { 1.0 }),
        left: 2.0,
        right: width - 4.0,
        top: 4.0,
        bottom: height - 3.0,
    };
    let path: Vec<String> = values
        .iter()
        .enumerate()
        .map(|(index, value)| format!("{} {}", at(frame.x(index as f64)), at(frame.y(*value))))
        .collect();
    let last = values.last().copied().unwrap_or(0.0);
    format!(
        "<svg class=\"spark\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\"><path class=\"line ink\" d=\"M{}\"/>\
         <circle class=\"dot ink\" cx=\"{}\" cy=\"{}\" r=\"2.4\"/></svg>",
        escape(label),
        path.join("L"),
        at(frame.right),
        at(frame.y(last))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        for (low, high, count, expected) in [
            (0.0, 1.0, 5, vec!["0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
            (0.31, 0.72, 4, vec!["0.4", "0.6"]),
            (0.0, 61.0, 6, vec!["0", "20", "40", "60"]),
            (-2.0, 2.0, 4, vec!["−2", "−1", "0", "1", "2"]),
            (0.0, 0.004, 4, vec!["0", "0.001", "0.002", "0.003", "0.004"]),
            (3.0, 3.0, 4, vec!["3"]),
        ] {
            let (step, values) = ticks(low, high, count);
            let labels: Vec<String> = values.iter().map(|value| tick_label(*value, step)).collect();
            assert_eq!(labels, expected, "{low} to {high}");
        }
    }

    #[test]
    fn names_at_the_ends_of_lines_do_not_touch() {
        assert_eq!(apart(&[50.0, 52.0, 10.0], 15.0, 0.0, 100.0), [50.0, 65.0, 10.0]);
        assert_eq!(apart(&[99.0, 98.0], 15.0, 0.0, 100.0), [100.0, 85.0]);
        assert_eq!(apart(&[], 15.0, 0.0, 100.0), Vec::<f64>::new());
    }

    #[test]
    fn what_a_chart_says_is_escaped_and_its_numbers_are_finite() {
        let hostile = "</svg><script>alert(1)</script>\"'&";
        let points = vec![
            Point { x: 0.0, y: 0.5, margin: Some(f64::INFINITY), title: hostile.to_owned() },
            Point { x: 1.0, y: 0.5, margin: None, title: String::new() },
        ];
        let series = vec![Series { name: hostile.to_owned(), class: "a", points }];
        let plot = Plot { label: hostile.to_owned(), series, names: vec![hostile.to_owned(); 2], ..Plot::default() };
        let parts = vec![("a", 2.0, hostile.to_owned())];
        let column = Column { name: hostile.to_owned(), parts };
        for svg in [lines(&plot, 400.0, 200.0), columns(hostile, &[column], 400.0, 200.0), sparkline(hostile, &[0.0, 0.0])] {
            assert!(!svg.contains("<script") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            assert_eq!(svg.matches("</svg>").count(), 1);
        }
        assert!(!histogram("x", &[], 400.0, 200.0).contains("NaN"));
    }
}
