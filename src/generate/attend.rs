//! Attention over the cache: piece by piece for speed, or row by row for the same bytes whatever else is in the step.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::plan::Piece;

/// How the rows of a step attend.
pub enum Attention {
    /// Each piece once for all its rows, then every row's pieces put together.
    Pieces { pieces: Vec<KeyPiece>, merge: Option<Merge> },
    /// One product for each row, whose shape is given by the row's position alone. Rows after these are padding.
    Rows(Vec<Keys>),
}

/// A piece with its mask.
pub struct KeyPiece {
    rows: Range<usize>,
    keys: Range<usize>,
    /// `[rows, keys]`: 0 where the row sees the key, else negative infinity.
    mask: Option<Tensor>,
}

/// Where the parts of every row are among the rows of all pieces.
pub struct Merge {
    /// `[N * P]`: the parts of row 0, row 1, ...; the row after the last stands for none.
    parts: Tensor,
    /// P.
    most: i64,
}

/// The keys of one row, from its sequence's first token to its own.
pub enum Keys {
    Neighbours(Range<usize>),
    /// `[S]`: places in the cache.
    Scattered(Tensor),
}

impl Attention {
    /// * `pieces`: in the order of `plan::pieces`, over `rows` rows.
    pub fn of_pieces(pieces: Vec<Piece>, rows: usize, kind: Kind, device: Device) -> Attention {
        let mut parts: Vec<Vec<i64>> = vec![Vec::new(); rows];
        let mut place = 0;
        for piece in &pieces {
            for row in piece.rows.clone() {
                parts[row].push(place);
                place += 1;
            }
        }
        let most = parts.iter().map(Vec::len).max().unwrap_or(0);
        let in_order = most == 1 && parts.iter().enumerate().all(|(row, part)| part[0] == row as i64);
        let merge = (!in_order).then(|| {
            let padded: Vec<i64> =
                parts.iter().flat_map(|part| part.iter().copied().chain(std::iter::repeat_n(place, most - part.len()))).collect();
            Merge { parts: Tensor::from_slice(&padded).to_device(device), most: most as i64 }
        });
        let pieces = pieces.into_iter().map(|piece| KeyPiece::new(piece, kind, device)).collect();
        Attention::Pieces { pieces, merge }
    }
}

impl KeyPiece {
    fn new(piece: Piece, kind: Kind, device: Device) -> KeyPiece {
        let mask = piece.causal.map(|(row_position, key_position)| {
            let size = [piece.rows.len() as i64, piece.keys.len() as i64];
            let hidden = Tensor::full(size, f64::NEG_INFINITY, (kind, device));
            hidden.triu(1 + row_position as i64 - key_position as i64)
        });
        KeyPiece { rows: piece.rows, keys: piece.keys, mask }
    }
}

/// What each row takes from the values of the keys that it sees.
///
/// * `q_nrgc`: `[N, R, G, C]`.
/// * `cache`: `[2 G, S, C]`, keys then values, those of this step included.
///
/// Returns `[N, R, G, C]`, contiguous.
pub fn attend(q_nrgc: &Tensor, cache: &Tensor, attention: &Attention) -> Tensor {
    match attention {
        Attention::Pieces { pieces, merge } => attend_pieces(q_nrgc, cache, pieces, merge.as_ref()),
        Attention::Rows(rows) => attend_rows(q_nrgc, cache, rows),
    }
}

fn attend_pieces(q_nrgc: &Tensor, cache: &Tensor, pieces: &[KeyPiece], merge: Option<&Merge>) -> Tensor {
    let size = q_nrgc.size();
    let (repeats, groups) = (size[1], size[2]);
    let mut attended = Vec::with_capacity(pieces.len() + 1);
    let mut logsums = Vec::with_capacity(pieces.len() + 1);
    for piece in pieces {
        let q = q_nrgc.narrow(0, piece.rows.start as i64, piece.rows.len() as i64);
        let kv = cache.narrow(1, piece.keys.start as i64, piece.keys.len() as i64);
        let (out, logsum) = piece_attention(&q, &kv, piece.mask.as_ref());
        attended.push(out);
        logsums.push(logsum);
    }
    let Some(merge) = merge else {
        return if attended.len() == 1 { attended.remove(0).contiguous() } else { Tensor::cat(&attended, 0) };
    };
    let options = (attended[0].kind(), attended[0].device());
    attended.push(Tensor::zeros([1, repeats, groups, size[3]], options));
    logsums.push(Tensor::full([1, repeats, groups], f64::NEG_INFINITY, (logsums[0].kind(), options.1)));
    let parts = |x: &[Tensor], rest: &[i64]| {
        Tensor::cat(x, 0).index_select(0, &merge.parts).view([&[-1, merge.most], rest].concat().as_slice())
    };
    let weights = parts(&logsums, &[repeats, groups]).softmax(1, None).unsqueeze(-1).to_kind(options.0);
    (parts(&attended, &[repeats, groups, size[3]]) * weights).sum_dim_intlist([1i64].as_slice(), false, None)
}

/// * `q_nrgc`: queries of the piece's rows. `kv`: `[2 G, S, C]`.
///
/// Returns what they take, `[N, R, G, C]`, and the logs of the sums of their weights, `[N, R, G]`, both views.
fn piece_attention(q_nrgc: &Tensor, kv: &Tensor, mask: Option<&Tensor>) -> (Tensor, Tensor) {
    let (repeats, groups) = (q_nrgc.size()[1], q_nrgc.size()[2]);
    let q_rgnc = q_nrgc.permute([1, 2, 0, 3]);
    let side = |start: i64| kv.narrow(0, start, groups).unsqueeze(0).expand([repeats, -1, -1, -1], false);
    let (k, v) = (side(0), side(groups));
    let (out_rgnc, logsum_rgn) = match q_nrgc.device() {
        Device::Cpu => Tensor::internal_scaled_dot_product_flash_attention_for_cpu(&q_rgnc, &k, &v, 0.0, false, mask, None),
        _ => plain_attention(&q_rgnc, &k, &v, mask),
    };
    (out_rgnc.permute([2, 0, 1, 3]), logsum_rgn.permute([2, 0, 1]))
}

/// The same with plain products, for devices whose fused attention does not tell the log of the sum.
fn plain_attention(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> (Tensor, Tensor) {
    let scale = 1.0 / (q.size()[3] as f64).sqrt();
    let mut scores = (q * scale).matmul(&k.transpose(2, 3)).to_kind(Kind::Float);
    if let Some(mask) = mask {
        scores += mask;
    }
    (scores.softmax(-1, None).to_kind(v.kind()).matmul(v), scores.logsumexp([-1i64].as_slice(), false))
}

fn attend_rows(q_nrgc: &Tensor, cache: &Tensor, rows: &[Keys]) -> Tensor {
    let mut attended: Vec<Tensor> = rows
        .iter()
        .enumerate()
        .map(|(row, keys)| {
            let kv = match keys {
                Keys::Neighbours(keys) => cache.narrow(1, keys.start as i64, keys.len() as i64),
                Keys::Scattered(places_s) => cache.index_select(1, places_s),
            };
            piece_attention(&q_nrgc.narrow(0, row as i64, 1), &kv, None).0
        })
        .collect();
    let mut padding = q_nrgc.size();
    padding[0] -= rows.len() as i64;
    attended.push(Tensor::zeros(padding, (q_nrgc.kind(), q_nrgc.device())));
    Tensor::cat(&attended, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fused_and_plain_attention_agree() {
        let options = (Kind::Float, Device::Cpu);
        let (q, kv) = (Tensor::randn([3, 2, 4, 5, 8], options), Tensor::randn([8, 9, 8], options));
        let (k, v) = (kv.narrow(0, 0, 4).expand([2, -1, -1, -1], false), kv.narrow(0, 4, 4).expand([2, -1, -1, -1], false));
        let mask = Tensor::full([5, 9], f64::NEG_INFINITY, options).triu(3);
        for (index, mask) in [None, Some(&mask)].into_iter().enumerate() {
            let q = q.get(index as i64);
            let fused = Tensor::internal_scaled_dot_product_flash_attention_for_cpu(&q, &k, &v, 0.0, false, mask, None);
            let plain = plain_attention(&q, &k, &v, mask);
            for (fused, plain) in [(fused.0, plain.0), (fused.1, plain.1)] {
                assert!((fused - plain).abs().max().double_value(&[]) < 1e-5);
            }
        }
    }
}
