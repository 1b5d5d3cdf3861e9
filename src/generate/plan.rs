//! Which keys each row of a step attends to, as few and as large pieces as sharing and the cache's layout allow.
//!
//! A piece is a stretch of neighbouring tokens of the cache and the rows that see it. Requests with a common prefix have its blocks in
//! common, so one piece serves all their rows: the keys are read once for all of them. What a row saw in its pieces is put together
//! afterwards by the log of the sum of its weights (Dao 2023, arXiv 2307.08691, section 3.1; sharing: Juravsky et al. 2024, arXiv
//! 2402.05099).

use std::ops::Range;

use super::blocks::Block;

/// A sequence in a step.
#[derive(Debug)]
pub struct Member<'a> {
    /// Its rows in the step, one for each token that is computed now.
    pub rows: Range<usize>,
    /// Its blocks, enough for `past` and the rows.
    pub blocks: &'a [Block],
    /// Tokens before the first row.
    pub past: usize,
}

/// Rows and keys that they see.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    pub rows: Range<usize>,
    /// Tokens of the cache, all blocks laid end to end.
    pub keys: Range<usize>,
    /// Position of the first row and of the first key in their sequence, where each row sees only the keys up to itself; `None` where all
    /// rows see all keys.
    pub causal: Option<(usize, usize)>,
}

/// The pieces of a step. Each row sees every token of its sequence up to itself in exactly one of them.
///
/// * `members`: sorted by their blocks, so that those that share stand together, with rows in the same order.
pub fn pieces(members: &[Member], block_tokens: usize) -> Vec<Piece> {
    let mut pieces = Vec::new();
    shared(members, 0, block_tokens, &mut pieces);
    pieces
}

/// Pieces from block `depth` on, of members that have all blocks before it in common.
fn shared(members: &[Member], depth: usize, block_tokens: usize, pieces: &mut Vec<Piece>) {
    // A block can be seen whole by all rows of a sequence if it lies in its past.
    let next =
        |member: &Member, depth: usize| member.blocks.get(depth).copied().filter(|_| (depth + 1) * block_tokens <= member.past);
    let mut start = 0;
    while start < members.len() {
        let first = next(&members[start], depth);
        let length = match first {
            Some(_) => members[start..].iter().take_while(|member| next(member, depth) == first).count(),
            None => 1,
        };
        let group = &members[start..start + length];
        start += length;
        let (Some(block), false) = (first, group.len() == 1) else {
            alone(&group[0], depth, block_tokens, pieces);
            continue;
        };
        let all_go_on = |count: usize| group.iter().all(|member| next(member, depth + count) == Some(block + count as Block));
        let count = 1 + (1..).take_while(|count| all_go_on(*count)).count();
        pieces.push(Piece {
            rows: group[0].rows.start..group[group.len() - 1].rows.end,
            keys: block as usize * block_tokens..(block as usize + count) * block_tokens,
            causal: None,
        });
        shared(group, depth + count, block_tokens, pieces);
    }
}

/// Pieces from block `depth` on, of a member that shares nothing more.
fn alone(member: &Member, depth: usize, block_tokens: usize, pieces: &mut Vec<Piece>) {
    let end = member.past + member.rows.len();
    let mut position = depth * block_tokens;
    while position < end {
        let first = position / block_tokens;
        let neighbours = (first + 1..).take_while(|index| {
            index * block_tokens < end && member.blocks[*index] == member.blocks[first] + (index - first) as Block
        });
        let stop = ((first + 1 + neighbours.count()) * block_tokens).min(end);
        let start = member.blocks[first] as usize * block_tokens;
        // Rows before the first key see none of them.
        let skipped = position.saturating_sub(member.past);
        let sees_all = stop <= member.past + 1 + skipped;
        pieces.push(Piece {
            rows: member.rows.start + skipped..member.rows.end,
            keys: start..start + stop - position,
            causal: (!sees_all).then_some((member.past + skipped, position)),
        });
        position = stop;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// For each row, the tokens of the cache that it sees, sorted.
    fn seen(pieces: &[Piece], rows: usize) -> Vec<Vec<usize>> {
        let mut seen = vec![Vec::new(); rows];
        for piece in pieces {
            for row in piece.rows.clone() {
                let visible = |key: &usize| match piece.causal {
                    None => true,
                    Some((row_position, key_position)) => {
                        key_position + (key - piece.keys.start) <= row_position + (row - piece.rows.start)
                    }
                };
                let keys: Vec<usize> = piece.keys.clone().filter(visible).collect();
                assert!(!keys.is_empty(), "row {row} sees nothing of {piece:?}");
                seen[row].extend(keys);
            }
        }
        seen.iter_mut().for_each(|keys| keys.sort_unstable());
        seen
    }

    /// The same, token by token from the blocks.
    fn expected(members: &[Member], block_tokens: usize) -> Vec<Vec<usize>> {
        let of_row = |member: &Member, row: usize| {
            let place =
                |position: usize| member.blocks[position / block_tokens] as usize * block_tokens + position % block_tokens;
            let mut keys: Vec<usize> = (0..=member.past + row).map(place).collect();
            keys.sort_unstable();
            keys
        };
        members.iter().flat_map(|member| (0..member.rows.len()).map(|row| of_row(member, row))).collect()
    }

    #[test]
    fn a_shared_prompt_is_one_piece() {
        let members = [
            Member { rows: 0..1, blocks: &[4, 5, 6, 9], past: 13 },
            Member { rows: 1..2, blocks: &[4, 5, 6, 10], past: 12 },
            Member { rows: 2..5, blocks: &[20, 21], past: 4 },
        ];
        let pieces = pieces(&members, 4);
        assert_eq!(
            pieces,
            [
                Piece { rows: 0..2, keys: 16..28, causal: None },
                Piece { rows: 0..1, keys: 36..38, causal: None },
                Piece { rows: 1..2, keys: 40..41, causal: None },
                Piece { rows: 2..5, keys: 80..87, causal: Some((4, 0)) },
            ]
        );
        assert_eq!(seen(&pieces, 5), expected(&members, 4));
    }

    proptest! {
        #[test]
        fn every_row_sees_its_past_once(
            stems in prop::collection::vec(prop::collection::vec(0..3u32, 0..5), 1..6),
            lengths in prop::collection::vec((0..9usize, 1..9usize, any::<bool>()), 6),
            block_tokens in prop::sample::select(vec![1usize, 2, 4]),
        ) {
            // Each way through a tree of at most three branches is a chain of shared blocks; what comes after is a member's own.
            let mut own = 10_000;
            let mut tables: Vec<(Vec<Block>, usize, usize)> = stems.iter().zip(&lengths).map(|(stem, (extra, new, adjacent))| {
                let shared: Vec<Block> = stem.iter().scan(0, |path, branch| { *path = *path * 4 + branch + 1; Some(*path) }).collect();
                let past = shared.len() * block_tokens + extra;
                let count = (past + new).div_ceil(block_tokens);
                let mut blocks = shared;
                while blocks.len() < count {
                    own += if *adjacent { 1 } else { 2 };
                    blocks.push(own);
                }
                (blocks, past, *new)
            }).collect();
            tables.sort();
            let mut row = 0;
            let members: Vec<Member> = tables.iter().map(|(blocks, past, new)| {
                row += new;
                Member { rows: row - new..row, blocks, past: *past }
            }).collect();
            prop_assert_eq!(seen(&pieces(&members, block_tokens), row), expected(&members, block_tokens));
        }
    }
}
