//! The KV cache as blocks: who holds which, what is in those that nobody holds, and which goes first when room is needed.
//!
//! A block is found again by the hash of all tokens up to its end, so that equal hashes mean equal content. Blocks that nobody holds keep
//! theirs until they are wanted for something else, the longest unused first.

use std::collections::{BTreeSet, HashMap};

/// A block, by its place in the cache.
pub type Block = u32;

/// BLAKE3 of every token from the first of the sequence to the last of the block.
pub type Content = [u8; 32];

/// Unheld blocks emptied at once. They tend to be neighbours, since they were given back together, and neighbours are read faster.
const EMPTIED_AT_ONCE: usize = 16;

/// Free neighbours below which a new sequence starts at the first of them instead of in their middle.
const ROOM_TO_GROW: usize = 8;

#[derive(Debug)]
pub struct Blocks {
    /// How many sequences hold each block.
    holders: Vec<u32>,
    content: Vec<Option<Content>>,
    by_content: HashMap<Content, Block>,
    /// Blocks that nobody holds and whose content nobody can ask for.
    free: BTreeSet<Block>,
    /// Blocks that nobody holds and whose content can be asked for, the longest unused first.
    idle: BTreeSet<(u64, Block)>,
    /// When each block was last given back.
    released: Vec<u64>,
    clock: u64,
}

/// Content of each whole block of these tokens, going on from what is there already.
pub fn extend_contents(contents: &mut Vec<Content>, ids: &[u32], block_tokens: usize) {
    for block in contents.len()..ids.len() / block_tokens {
        let mut hasher = blake3::Hasher::new();
        if let Some(before) = contents.last() {
            hasher.update(before);
        }
        for id in &ids[block * block_tokens..(block + 1) * block_tokens] {
            hasher.update(&id.to_le_bytes());
        }
        contents.push(*hasher.finalize().as_bytes());
    }
}

impl Blocks {
    pub fn new(count: usize) -> Blocks {
        Blocks {
            holders: vec![0; count],
            content: vec![None; count],
            by_content: HashMap::new(),
            free: (0..count as Block).collect(),
            idle: BTreeSet::new(),
            released: vec![0; count],
            clock: 0,
        }
    }

    pub fn total(&self) -> usize {
        self.holders.len()
    }

    /// Blocks that `take` can still give.
    pub fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// Blocks that nobody holds and that can be found again.
    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    /// The blocks of the longest run of these contents, from the first on, that is in the cache. They are held from now on.
    pub fn find(&mut self, contents: &[Content]) -> Vec<Block> {
        let found: Vec<Block> = contents.iter().map_while(|content| self.by_content.get(content).copied()).collect();
        for block in &found {
            if self.holders[*block as usize] == 0 {
                self.idle.remove(&(self.released[*block as usize], *block));
            }
            self.holders[*block as usize] += 1;
        }
        found
    }

    /// The block that has this content.
    pub fn get(&self, content: &Content) -> Option<Block> {
        self.by_content.get(content).copied()
    }

    /// How many blocks `find` would find.
    pub fn count(&self, contents: &[Content]) -> usize {
        contents.iter().take_while(|content| self.by_content.contains_key(*content)).count()
    }

    /// How many blocks `find` would find that nobody holds: they are among the available ones now, and would not be then.
    pub fn idle_among(&self, contents: &[Content]) -> usize {
        let found = contents.iter().map_while(|content| self.by_content.get(content));
        found.filter(|block| self.holders[**block as usize] == 0).count()
    }

    /// An empty block, the right neighbour of `after` where it can be had. `None` where every block is held.
    pub fn take(&mut self, after: Option<Block>) -> Option<Block> {
        if self.free.is_empty() {
            for _ in 0..EMPTIED_AT_ONCE {
                let Some((_, block)) = self.idle.pop_first() else { break };
                if let Some(content) = self.content[block as usize].take() {
                    self.by_content.remove(&content);
                }
                self.free.insert(block);
            }
        }
        let neighbour = after.map(|block| block + 1).filter(|block| self.free.contains(block));
        let block = neighbour.or_else(|| self.start_of_run())?;
        self.free.remove(&block);
        self.holders[block as usize] = 1;
        Some(block)
    }

    /// Where a sequence that has no neighbour to go on at finds most room: in the middle of the longest row of free blocks, so that
    /// whoever ends before it has room to grow too.
    fn start_of_run(&self) -> Option<Block> {
        let mut longest: (Block, Block) = (*self.free.first()?, 0);
        let mut current = (longest.0, 0);
        for block in &self.free {
            current = if *block == current.0 + current.1 { (current.0, current.1 + 1) } else { (*block, 1) };
            if current.1 > longest.1 {
                longest = current;
            }
        }
        let (start, length) = longest;
        Some(if length as usize >= ROOM_TO_GROW { start + length / 2 } else { start })
    }

    /// Says that a held block is full and what it holds. Where another block has the same content already, that one stays the one found.
    pub fn publish(&mut self, block: Block, content: Content) {
        if self.content[block as usize].is_none() && !self.by_content.contains_key(&content) {
            self.content[block as usize] = Some(content);
            self.by_content.insert(content, block);
        }
    }

    /// Gives back a sequence's blocks. The last goes first when room is needed: without those before it, it is of no use.
    pub fn release(&mut self, blocks: &[Block]) {
        for block in blocks.iter().rev() {
            let index = *block as usize;
            self.holders[index] -= 1;
            if self.holders[index] > 0 {
                continue;
            }
            match self.content[index] {
                Some(_) => {
                    self.clock += 1;
                    self.released[index] = self.clock;
                    self.idle.insert((self.clock, *block));
                }
                None => {
                    self.free.insert(*block);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(ids: &[u32]) -> Vec<Content> {
        let mut contents = Vec::new();
        extend_contents(&mut contents, ids, 2);
        contents
    }

    fn hold(blocks: &mut Blocks, contents: &[Content]) -> Vec<Block> {
        let mut held: Vec<Block> = Vec::new();
        for content in contents {
            let block = blocks.take(held.last().copied()).expect("a block is free");
            blocks.publish(block, *content);
            held.push(block);
        }
        held
    }

    #[test]
    fn a_content_stands_for_everything_before_it_too() {
        let [a, b] = [contents(&[1, 2, 3, 4, 5]), contents(&[9, 2, 3, 4])];
        assert_eq!((a.len(), b.len()), (2, 2));
        assert_ne!(a[1], b[1]);
        let mut grown = contents(&[1, 2, 3]);
        extend_contents(&mut grown, &[1, 2, 3, 4], 2);
        assert_eq!(grown, a);
    }

    #[test]
    fn what_was_given_back_is_found_again_until_room_is_needed() {
        let mut blocks = Blocks::new(4);
        let first = contents(&[1, 1, 2, 2]);
        let held = hold(&mut blocks, &first);
        blocks.release(&held);
        assert_eq!((blocks.available(), blocks.idle()), (4, 2));
        assert_eq!(blocks.idle_among(&first), 2);

        assert_eq!(blocks.find(&contents(&[1, 1, 2, 2, 3, 3])), held);
        assert_eq!(blocks.available(), 2);
        let other = hold(&mut blocks, &contents(&[7, 7, 8, 8]));
        assert_eq!(blocks.take(None), None);
        blocks.release(&held);
        blocks.release(&other);
        assert_eq!(blocks.idle(), 4);

        assert!(blocks.take(None).is_some());
        assert_eq!(blocks.idle(), 0);
        assert!(blocks.find(&first).is_empty());
    }

    #[test]
    fn a_shared_block_goes_back_with_its_last_holder() {
        let mut blocks = Blocks::new(2);
        let first = contents(&[1, 1]);
        let held = hold(&mut blocks, &first);
        assert_eq!(blocks.find(&first), held);
        blocks.release(&held);
        assert_eq!((blocks.available(), blocks.idle_among(&first)), (1, 0));
        blocks.release(&held);
        assert_eq!(blocks.available(), 2);
    }

    #[test]
    fn a_sequence_gets_neighbours_and_room_to_grow() {
        let mut blocks = Blocks::new(32);
        let first = blocks.take(None).expect("free");
        let second = blocks.take(None).expect("free");
        assert!(first.abs_diff(second) >= 8, "{first} and {second}");
        for (mut last, grown) in [(first, 7), (second, 7)] {
            for _ in 0..grown {
                assert_eq!(blocks.take(Some(last)), Some(last + 1));
                last += 1;
            }
        }
    }

    #[test]
    fn the_end_of_a_sequence_is_forgotten_before_its_beginning() {
        let mut blocks = Blocks::new(EMPTIED_AT_ONCE + 2);
        let ids: Vec<u32> = (0..2 * (EMPTIED_AT_ONCE as u32 + 2)).collect();
        let all = contents(&ids);
        let held = hold(&mut blocks, &all);
        blocks.release(&held);
        assert!(blocks.take(None).is_some());
        assert_eq!(blocks.find(&all).len(), 2);
    }
}
