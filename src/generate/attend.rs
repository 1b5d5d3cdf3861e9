//! Attention over the cache: piece by piece for speed, or row by row for the same bytes whatever else is in the step.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::plan::Piece;

/// Keys up to which a row's own piece is copied beside those of other rows, so that one call serves all of them: to this length copying
/// costs less than a call.
const COPIED_KEYS: usize = 256;

/// How the rows of a step attend.
pub enum Attention {
    /// Each piece once for all its rows, then every row's pieces put together.
    Pieces { pieces: Vec<KeyPiece>, own: Option<OwnPieces>, merge: Option<Merge> },
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

/// Short pieces of one row each, of which there are `B`, the longest with `K` blocks of `T` tokens.
pub struct OwnPieces {
    /// `[B]`: their rows; `None` where they are all rows of the step.
    rows_b: Option<Tensor>,
    /// `[B * K]`: their blocks, filled up with the first.
    blocks: Tensor,
    /// `[B, 1, 1, K * T]`: 0 where the row sees the key, else negative infinity.
    mask: Tensor,
    block_tokens: i64,
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
    /// * `block_tokens`: tokens of a block; pieces begin with one.
    pub fn of_pieces(pieces: Vec<Piece>, rows: usize, block_tokens: usize, kind: Kind, device: Device) -> Attention {
        let is_own = |piece: &Piece| piece.rows.len() == 1 && piece.causal.is_none() && piece.keys.len() <= COPIED_KEYS;
        let (mut own, mut pieces): (Vec<Piece>, Vec<Piece>) = pieces.into_iter().partition(is_own);
        if own.len() == 1 {
            pieces.append(&mut own);
        }
        let mut parts: Vec<Vec<i64>> = vec![Vec::new(); rows];
        for (place, row) in pieces.iter().chain(&own).flat_map(|piece| piece.rows.clone()).enumerate() {
            parts[row].push(place as i64);
        }
        let most = parts.iter().map(Vec::len).max().unwrap_or(0);
        let in_order = most == 1 && parts.iter().enumerate().all(|(row, part)| part[0] == row as i64);
        let merge = (!in_order).then(|| {
            let none = parts.iter().map(Vec::len).sum::<usize>() as i64;
            let padded: Vec<i64> =
                parts.iter().flat_map(|part| part.iter().copied().chain(std::iter::repeat_n(none, most - part.len()))).collect();
            Merge { parts: Tensor::from_slice(&padded).to_device(device), most: most as i64 }
        });
        let own = (!own.is_empty()).then(|| OwnPieces::new(&own, rows, block_tokens, kind, device));
        let pieces = pieces.into_iter().map(|piece| KeyPiece::new(piece, kind, device)).collect();
        Attention::Pieces { pieces, own, merge }
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

impl OwnPieces {
    fn new(pieces: &[Piece], rows: usize, block_tokens: usize, kind: Kind, device: Device) -> OwnPieces {
        let most = pieces.iter().map(|piece| piece.keys.len().div_ceil(block_tokens)).max().unwrap_or(0);
        let (mut blocks, mut hidden) = (Vec::new(), Vec::new());
        for piece in pieces {
            let (first, count) = (piece.keys.start / block_tokens, piece.keys.len().div_ceil(block_tokens));
            blocks.extend((0..most).map(|index| (first + if index < count { index } else { 0 }) as i64));
            hidden.extend((0..most * block_tokens).map(|key| if key < piece.keys.len() { 0.0 } else { f32::NEG_INFINITY }));
        }
        let all_rows = pieces.len() == rows && pieces.iter().enumerate().all(|(row, piece)| piece.rows.start == row);
        let rows_b = (!all_rows).then(|| {
            let rows: Vec<i64> = pieces.iter().map(|piece| piece.rows.start as i64).collect();
            Tensor::from_slice(&rows).to_device(device)
        });
        OwnPieces {
            rows_b,
            blocks: Tensor::from_slice(&blocks).to_device(device),
            mask: Tensor::from_slice(&hidden).to_kind(kind).to_device(device).view([pieces.len() as i64, 1, 1, -1]),
            block_tokens: block_tokens as i64,
        }
    }
}

/// What each row takes from the values of the keys that it sees.
///
/// * `q_nrgc`: `[N, R, G, C]`.
/// * `cache`: `[2 G, S, C]`, keys then values, those of this step included; all numbers in the blocks of the step.
///
/// Returns `[N, R, G, C]`, contiguous.
pub fn attend(q_nrgc: &Tensor, cache: &Tensor, attention: &Attention) -> Tensor {
    match attention {
        Attention::Pieces { pieces, own, merge } => attend_pieces(q_nrgc, cache, pieces, own.as_ref(), merge.as_ref()),
        Attention::Rows(rows) => attend_rows(q_nrgc, cache, rows),
    }
}

fn attend_pieces(q_nrgc: &Tensor, cache: &Tensor, pieces: &[KeyPiece], own: Option<&OwnPieces>, merge: Option<&Merge>) -> Tensor {
    let size = q_nrgc.size();
    let (repeats, groups) = (size[1], size[2]);
    let mut attended = Vec::with_capacity(pieces.len() + 2);
    let mut logsums = Vec::with_capacity(pieces.len() + 2);
    for piece in pieces {
        let q = q_nrgc.narrow(0, piece.rows.start as i64, piece.rows.len() as i64);
        let kv = cache.narrow(1, piece.keys.start as i64, piece.keys.len() as i64);
        let (out, logsum) = match &piece.mask {
            None => shared_attention(&q, &kv),
            Some(mask) => piece_attention(&q, &kv, Some(mask)),
        };
        attended.push(out);
        logsums.push(logsum);
    }
    if let Some(own) = own {
        let (out, logsum) = own_attention(q_nrgc, cache, own);
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

/// Attention of rows that all see all keys: a head's repeats stand beside the rows, so that its keys are read once.
///
/// Sizes as of `piece_attention`.
fn shared_attention(q_nrgc: &Tensor, kv: &Tensor) -> (Tensor, Tensor) {
    let size = q_nrgc.size();
    let (rows, repeats, groups, channels) = (size[0], size[1], size[2], size[3]);
    let q = q_nrgc.permute([2, 1, 0, 3]).reshape([1, groups, repeats * rows, channels]);
    let side = |start: i64| kv.narrow(0, start, groups).unsqueeze(0);
    let (out, logsum) = fused_attention(&q, &side(0), &side(groups), None);
    let out_grnc = out.reshape([groups, repeats, rows, channels]);
    let logsum_grn = logsum.reshape([groups, repeats, rows]);
    (out_grnc.permute([2, 1, 0, 3]), logsum_grn.permute([2, 1, 0]))
}

/// Attention of rows with a short piece each: `[B, R, G, C]` and `[B, R, G]`, both views.
fn own_attention(q_nrgc: &Tensor, cache: &Tensor, own: &OwnPieces) -> (Tensor, Tensor) {
    let size = q_nrgc.size();
    let (groups, channels) = (size[2], size[3]);
    let q_brgc = own.rows_b.as_ref().map_or_else(|| q_nrgc.shallow_clone(), |rows_b| q_nrgc.index_select(0, rows_b));
    let blocks = cache.view([2 * groups, -1, own.block_tokens * channels]).index_select(1, &own.blocks);
    let kv = blocks.view([2, groups, q_brgc.size()[0], -1, channels]);
    let side = |index: i64| kv.get(index).transpose(0, 1);
    let (out_bgrc, logsum_bgr) = fused_attention(&q_brgc.transpose(1, 2), &side(0), &side(1), Some(&own.mask));
    (out_bgrc.transpose(1, 2), logsum_bgr.transpose(1, 2))
}

/// * `q_nrgc`: queries of the piece's rows. `kv`: `[2 G, S, C]`.
///
/// Returns what they take, `[N, R, G, C]`, and the logs of the sums of their weights, `[N, R, G]`, both views.
fn piece_attention(q_nrgc: &Tensor, kv: &Tensor, mask: Option<&Tensor>) -> (Tensor, Tensor) {
    let (repeats, groups) = (q_nrgc.size()[1], q_nrgc.size()[2]);
    let q_rgnc = q_nrgc.permute([1, 2, 0, 3]);
    let side = |start: i64| kv.narrow(0, start, groups).unsqueeze(0).expand([repeats, -1, -1, -1], false);
    let (out_rgnc, logsum_rgn) = fused_attention(&q_rgnc, &side(0), &side(groups), mask);
    (out_rgnc.permute([2, 0, 1, 3]), logsum_rgn.permute([2, 0, 1]))
}

/// Attention with the logs of the sums of the weights.
fn fused_attention(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> (Tensor, Tensor) {
    match q.device() {
        Device::Cpu => Tensor::internal_scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, false, mask, None),
        _ => plain_attention(q, k, v, mask),
    }
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
