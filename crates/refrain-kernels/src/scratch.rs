//! Recycled buffers: fresh big allocations fault page by page, which costs up to 1.6 times the work done in them.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use crate::allocator::advise_huge_pages;
use crate::prefetch::LINE;

/// How many idle buffers are kept; the oldest goes first.
const KEPT: usize = 48;

/// A free list of buffers, shared by an engine and by what it hands out.
#[derive(Clone, Default)]
pub(crate) struct FreeList {
    buffers: Arc<Mutex<Vec<Vec<f32>>>>,
}

impl std::fmt::Debug for FreeList {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("FreeList")
    }
}

impl FreeList {
    /// A buffer of `len` floats of any value.
    pub(crate) fn take(&self, len: usize) -> Vec<f32> {
        let recycled = {
            let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
            let fitting = (0..buffers.len())
                .filter(|&index| fits(buffers[index].capacity(), len))
                .min_by_key(|&index| buffers[index].capacity());
            fitting.map(|index| buffers.remove(index))
        };
        let mut buffer = recycled.unwrap_or_else(|| {
            // Reserved first and touched after the advice, so that its pages are big from the start.
            let mut fresh = Vec::with_capacity(len);
            advise_huge_pages(fresh.spare_capacity_mut());
            fresh
        });
        buffer.resize(len, 0.0);
        buffer
    }

    /// Gives a buffer back.
    pub(crate) fn give(&self, buffer: Vec<f32>) {
        if buffer.capacity() == 0 {
            return;
        }
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if buffers.len() == KEPT {
            buffers.remove(0);
        }
        buffers.push(buffer);
    }

    /// A buffer of `len` floats of any value that starts on a cache line and comes back when dropped.
    pub(crate) fn scratch(&self, len: usize) -> Scratch {
        // Packed panels start on a line, so that no vector load straddles two.
        let buffer = self.take(len + LINE - 1);
        let offset = buffer.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE - 1);
        Scratch { buffer, offset, len, home: self.clone() }
    }
}

/// A recycled buffer must not be so big that a small request starves a later big one.
fn fits(capacity: usize, len: usize) -> bool {
    capacity >= len && capacity / 4 <= len
}

/// A buffer on loan from a [`FreeList`], aligned to a cache line.
pub(crate) struct Scratch {
    buffer: Vec<f32>,
    offset: usize,
    len: usize,
    home: FreeList,
}

impl Scratch {
    /// The buffer as words, for packed factors.
    pub(crate) fn words_mut(&mut self) -> &mut [u32] {
        let floats: &mut [f32] = self;
        // SAFETY: f32 and u32 have the same size and alignment, and any bits are a value of both.
        unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), floats.len()) }
    }

    /// The packed factors in it.
    pub(crate) fn words(&self) -> &[u32] {
        let floats: &[f32] = self;
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(floats.as_ptr().cast(), floats.len()) }
    }
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Scratch({})", self.len)
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.buffer[self.offset..self.offset + self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[self.offset..self.offset + self.len]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.home.give(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_used_again() {
        let list = FreeList::default();
        let first = list.scratch(1000);
        let address = first.as_ptr();
        drop(first);
        assert_eq!(list.scratch(900).as_ptr(), address);
    }

    #[test]
    fn scratch_starts_on_a_cache_line() {
        assert_eq!(FreeList::default().scratch(100).as_ptr() as usize % 64, 0);
    }

    #[test]
    fn the_list_is_bounded() {
        let list = FreeList::default();
        for len in 1..100 {
            list.give(vec![0.0; len]);
        }
        assert_eq!(list.buffers.lock().unwrap().len(), KEPT);
    }
}
