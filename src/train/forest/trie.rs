//! The trie of the rows of a step: every distinct (prefix, token) once, laid out depth-first, and who attends to whom in it.
//!
//! A node is laid out before its subtree, and the child with the largest subtree comes first. So a walk that always takes the largest child, a
//! *path*, is one contiguous range, and the other subtrees that hang on one node of it are one contiguous range too. Attention then needs
//! two kinds of blocks: a path with itself (causal), and everything that hangs on a node of a path with the path up to that node (full). A node
//! changes path at most log2(nodes) times on its way to the root, since its subtree doubles each time.

use std::ops::Range;

/// Subtrees of no more nodes than this that lie side by side are one masked block: many tiny blocks cost more in calls than in arithmetic.
const MASKED_NODES: usize = 64;

/// The tokens of some rows, each (prefix, token) once.
#[derive(Debug, Clone, PartialEq)]
pub struct Trie {
    /// `[N]`: the token of each node, depth-first.
    pub ids: Vec<u32>,
    /// `[N]`: the number of nodes above each node, which is the token's position in its rows.
    pub positions: Vec<u32>,
    /// `[N]`: the node above each node; a root is its own.
    pub parents: Vec<u32>,
    /// `[rows]`: where each row lies, as ranges of nodes from the root down.
    pub places: Vec<Vec<Range<usize>>>,
    /// Who attends to whom. The blocks that are not `Full` come first and have every node once among their queries.
    pub blocks: Vec<Block>,
}

/// Queries that attend to keys, as ranges of nodes.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    pub queries: Range<usize>,
    pub keys: Range<usize>,
    pub seen: Seen,
}

/// Which keys of its block a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Those up to itself; queries and keys are the same range.
    Causal,
    /// Its ancestors and itself, by `Trie::mask`; queries and keys are the same range.
    Masked,
    /// All.
    Full,
}

/// A run of nodes without a branch: the tokens `start..end` of a row.
#[derive(Debug)]
struct Segment {
    row: usize,
    start: usize,
    end: usize,
    parent: Option<usize>,
    children: Vec<usize>,
    /// Nodes of the segment and below it.
    size: usize,
    /// The first node's place in the layout.
    at: usize,
}

impl Trie {
    /// * `rows`: tokens of each row; empty rows are in no node.
    ///
    /// The layout depends on the set of rows alone, not on their order.
    pub fn new(rows: &[&[u32]]) -> Trie {
        let (mut segments, roots, tips) = compress(rows);
        let roots = measure(&mut segments, roots);
        let (order, blocks) = lay_out(&mut segments, &roots);

        let nodes = roots.iter().map(|&root| segments[root].size).sum();
        let mut trie = Trie {
            ids: Vec::with_capacity(nodes),
            positions: Vec::with_capacity(nodes),
            parents: Vec::with_capacity(nodes),
            places: vec![],
            blocks,
        };
        for &index in &order {
            let segment = &segments[index];
            let above = segment.parent.map(|parent| segments[parent].at + segments[parent].end - segments[parent].start - 1);
            trie.ids.extend_from_slice(&rows[segment.row][segment.start..segment.end]);
            trie.positions.extend(segment.start as u32..segment.end as u32);
            trie.parents.push(above.unwrap_or(segment.at) as u32);
            trie.parents.extend(segment.at as u32..(segment.at + segment.end - segment.start) as u32 - 1);
        }
        trie.places = tips.iter().map(|&tip| ranges_to_root(&segments, tip)).collect();
        trie
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The node of a row's token, `None` past its end.
    pub fn node(&self, row: usize, token: usize) -> Option<usize> {
        let range = self.places[row].iter().find(|range| (self.positions[range.start] as usize + range.len()) > token)?;
        Some(range.start + token - self.positions[range.start] as usize)
    }

    /// `[n, n]`, row by row: whether each node of a masked block sees each.
    pub fn mask(&self, range: &Range<usize>) -> Vec<bool> {
        let n = range.len();
        let mut seen = vec![false; n * n];
        for query in 0..n {
            let parent = self.parents[range.start + query] as usize;
            if parent >= range.start && parent < range.start + query {
                let above = parent - range.start;
                seen.copy_within(above * n..(above + 1) * n, query * n);
            }
            seen[query * n + query] = true;
        }
        seen
    }
}

/// How many leading tokens two rows have in common.
pub(super) fn common_prefix(one: &[u32], other: &[u32]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

/// Segments, the roots among them, and each row's last segment (none for an empty row).
fn compress(rows: &[&[u32]]) -> (Vec<Segment>, Vec<usize>, Vec<Option<usize>>) {
    let mut sorted: Vec<usize> = (0..rows.len()).collect();
    sorted.sort_by_key(|&row| rows[row]);
    let (mut segments, mut roots, mut tips) = (Vec::<Segment>::new(), vec![], vec![None; rows.len()]);
    // The segments of the row before, from the root down. Rows are sorted, so that nothing else can be shared with the next.
    let mut open = Vec::<usize>::new();
    let mut before: &[u32] = &[];
    for row in sorted {
        let tokens = rows[row];
        let shared = common_prefix(before, tokens);
        while open.last().is_some_and(|&segment| segments[segment].start >= shared) {
            open.pop();
        }
        if let Some(&lower) = open.last().filter(|&&segment| segments[segment].end > shared) {
            // The new row leaves this segment halfway. Its lower part keeps the index, which rows that end in it hold as their tip.
            let upper = segments.len();
            let parent = segments[lower].parent;
            segments.push(Segment { end: shared, children: vec![lower], parent, at: 0, size: 0, ..segments[lower] });
            let siblings = parent.map_or(&mut roots, |parent| &mut segments[parent].children);
            *siblings.last_mut().expect("the row before is the last below its ancestors") = upper;
            segments[lower].start = shared;
            segments[lower].parent = Some(upper);
            *open.last_mut().expect("it was just looked at") = upper;
        }
        if tokens.len() > shared {
            let parent = open.last().copied();
            let new = segments.len();
            segments.push(Segment { row, start: shared, end: tokens.len(), parent, children: vec![], size: 0, at: 0 });
            parent.map_or(&mut roots, |parent| &mut segments[parent].children).push(new);
            open.push(new);
        }
        tips[row] = open.last().copied();
        before = tokens;
    }
    (segments, roots, tips)
}

/// Sizes of all subtrees; children and the returned roots are put in order, largest first, equal ones by their tokens.
fn measure(segments: &mut [Segment], mut roots: Vec<usize>) -> Vec<usize> {
    let mut order = roots.clone();
    let mut next = 0;
    while next < order.len() {
        order.extend_from_slice(&segments[order[next]].children);
        next += 1;
    }
    for &index in order.iter().rev() {
        let mut children = std::mem::take(&mut segments[index].children);
        children.sort_by_key(|&child| std::cmp::Reverse(segments[child].size));
        let below: usize = children.iter().map(|&child| segments[child].size).sum();
        segments[index].size = segments[index].end - segments[index].start + below;
        segments[index].children = children;
    }
    roots.sort_by_key(|&root| std::cmp::Reverse(segments[root].size));
    roots
}

/// Places every segment, and returns their order and the blocks of attention.
fn lay_out(segments: &mut [Segment], roots: &[usize]) -> (Vec<usize>, Vec<Block>) {
    let mut order = Vec::with_capacity(segments.len());
    let (mut own, mut full) = (Vec::<Block>::new(), vec![]);
    // Heads of paths that are not placed yet, the next one last. Large forests are deep: no recursion.
    let mut heads: Vec<usize> = roots.iter().rev().copied().collect();
    let mut masked_until = 0;
    // Whether the last block has all that hangs on it.
    let mut complete = false;
    let mut end = 0;
    while let Some(head) = heads.pop() {
        let start = end;
        let mut path = vec![head];
        while let Some(&child) = segments[path[path.len() - 1]].children.first() {
            path.push(child);
        }
        for &index in &path {
            segments[index].at = end;
            end += segments[index].end - segments[index].start;
        }
        order.extend_from_slice(&path);

        if start >= masked_until {
            let whole = start..start + segments[head].size;
            // Small subtrees side by side go into one block; one that is a single path needs no mask.
            let fits = |block: &&mut Block| complete && whole.end - block.queries.start <= MASKED_NODES;
            if let Some(block) = own.last_mut().filter(fits) {
                *block =
                    Block { queries: block.queries.start..whole.end, keys: block.queries.start..whole.end, seen: Seen::Masked };
                masked_until = whole.end;
            } else if whole.len() <= MASKED_NODES && whole.end > end {
                own.push(Block { queries: whole.clone(), keys: whole.clone(), seen: Seen::Masked });
                masked_until = whole.end;
            } else {
                own.push(Block { queries: start..end, keys: start..end, seen: Seen::Causal });
            }
            complete = whole.end == end || masked_until == whole.end;
        }
        // What hangs on the deepest node of the path is laid out next.
        let mut below = end;
        let mut hanging = vec![];
        for &index in path.iter().rev() {
            let light = segments[index].children.get(1..).unwrap_or_default();
            let nodes: usize = light.iter().map(|&child| segments[child].size).sum();
            if nodes > 0 && below >= masked_until {
                let last = segments[index].at + segments[index].end - segments[index].start;
                full.push(Block { queries: below..below + nodes, keys: start..last, seen: Seen::Full });
            }
            below += nodes;
            hanging.extend_from_slice(light);
        }
        heads.extend(hanging.into_iter().rev());
    }
    own.extend(full);
    (order, own)
}

fn ranges_to_root(segments: &[Segment], tip: Option<usize>) -> Vec<Range<usize>> {
    let mut ranges = Vec::<Range<usize>>::new();
    let mut next = tip;
    while let Some(index) = next {
        let segment = &segments[index];
        let range = segment.at..segment.at + segment.end - segment.start;
        match ranges.last_mut() {
            Some(below) if below.start == range.end => below.start = range.start,
            _ => ranges.push(range),
        }
        next = segment.parent;
    }
    ranges.reverse();
    ranges
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeSet, HashSet};

    /// Which keys each node sees, by the blocks; a pair that two blocks have is a fault.
    fn seen_by_blocks(trie: &Trie) -> BTreeSet<(usize, usize)> {
        let mut seen = BTreeSet::new();
        for block in &trie.blocks {
            let mask = (block.seen == Seen::Masked).then(|| trie.mask(&block.queries));
            for (i, query) in block.queries.clone().enumerate() {
                for (j, key) in block.keys.clone().enumerate() {
                    let sees = match block.seen {
                        Seen::Causal => key <= query,
                        Seen::Masked => mask.as_ref().is_some_and(|mask| mask[i * block.queries.len() + j]),
                        Seen::Full => true,
                    };
                    assert!(!sees || seen.insert((query, key)), "{query} sees {key} twice");
                }
            }
        }
        seen
    }

    fn check(rows: &[Vec<u32>]) {
        let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        let trie = Trie::new(&rows);
        let prefixes: HashSet<&[u32]> = rows.iter().flat_map(|row| (1..=row.len()).map(|end| &row[..end])).collect();
        assert_eq!(trie.len(), prefixes.len(), "every prefix is one node");
        let mut expected = BTreeSet::new();
        for (row, tokens) in rows.iter().enumerate() {
            let nodes: Vec<usize> = (0..tokens.len()).map(|token| trie.node(row, token).expect("within the row")).collect();
            assert_eq!(trie.node(row, tokens.len()), None);
            for (position, &node) in nodes.iter().enumerate() {
                assert_eq!((trie.ids[node], trie.positions[node] as usize), (tokens[position], position));
                assert_eq!(trie.parents[node] as usize, if position == 0 { node } else { nodes[position - 1] });
                expected.extend(nodes[..=position].iter().map(|&key| (node, key)));
            }
        }
        assert_eq!(seen_by_blocks(&trie), expected, "every node sees its ancestors and itself, once");
        let mut covered: Vec<usize> =
            trie.blocks.iter().filter(|block| block.seen != Seen::Full).flat_map(|block| block.queries.clone()).collect();
        covered.sort();
        assert_eq!(covered, (0..trie.len()).collect::<Vec<_>>());
        assert!(
            trie.blocks.iter().rposition(|block| block.seen != Seen::Full)
                < trie.blocks.iter().position(|block| block.seen == Seen::Full).or(Some(usize::MAX))
        );
    }

    /// Rows that grow out of one another, as turns and samples do: each takes a prefix of an earlier one and goes on.
    pub(crate) fn grown(cuts: &[(usize, usize, Vec<u32>)]) -> Vec<Vec<u32>> {
        let mut rows: Vec<Vec<u32>> = vec![];
        for (from, keep, more) in cuts {
            let mut row = if rows.is_empty() { vec![] } else { rows[from % rows.len()].clone() };
            row.truncate(keep % (row.len() + 1));
            row.extend(more);
            rows.push(row);
        }
        rows
    }

    proptest! {
        #[test]
        fn nodes_are_prefixes_and_blocks_their_ancestors(cuts in prop::collection::vec((any::<usize>(), any::<usize>(), prop::collection::vec(0u32..3, 0..40)), 0..14)) {
            check(&grown(&cuts));
        }

        #[test]
        fn order_of_rows_does_not_matter(cuts in prop::collection::vec((any::<usize>(), any::<usize>(), prop::collection::vec(0u32..3, 0..9)), 1..9)) {
            let rows = grown(&cuts);
            let one: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
            let other: Vec<&[u32]> = one.iter().rev().copied().collect();
            let (one, mut other) = (Trie::new(&one), Trie::new(&other));
            other.places.reverse();
            prop_assert_eq!(one, other);
        }
    }

    #[test]
    fn a_group_is_one_path_and_what_hangs_on_it() {
        // Three samples of two tokens on a prompt of 100; the second goes on for 100 more.
        let prompt: Vec<u32> = (0..100).collect();
        let row = |more: &[u32]| [&prompt[..], more].concat();
        let long: Vec<u32> = (500..600).collect();
        let rows = [row(&[1, 2]), row(&[[3, 4].as_slice(), &long].concat()), row(&[5, 6])];
        let trie = Trie::new(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>());
        assert_eq!(trie.places, vec![vec![0..100, 202..204], vec![0..202], vec![0..100, 204..206]]);
        assert_eq!(
            trie.blocks,
            vec![
                Block { queries: 0..202, keys: 0..202, seen: Seen::Causal },
                Block { queries: 202..206, keys: 202..206, seen: Seen::Masked },
                Block { queries: 202..206, keys: 0..100, seen: Seen::Full },
            ]
        );
    }

    #[test]
    fn deep_tries_need_no_stack() {
        let rows: Vec<Vec<u32>> = (0..2000).map(|turn| (0..=turn).chain([9999]).collect()).collect();
        let trie = Trie::new(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>());
        assert_eq!(trie.len(), 2000 + 2000);
        assert_eq!(trie.node(1999, 2000), Some(2000));
    }
}
