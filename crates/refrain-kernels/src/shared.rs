//! A slice that the members of a team write in disjoint parts.

use std::marker::PhantomData;

/// A mutable slice whose parts are handed out by index, to several threads at once.
///
/// The borrow checker cannot see that tiles are disjoint; who calls the unsafe methods promises it.
pub(crate) struct SharedSlice<'a, T> {
    data: *mut T,
    len: usize,
    marker: PhantomData<&'a mut [T]>,
}

impl<T> Clone for SharedSlice<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for SharedSlice<'_, T> {}

// SAFETY: it stands for a `&mut [T]` whose parts are used by one thread at a time, by the contract of its unsafe methods.
unsafe impl<T: Send> Send for SharedSlice<'_, T> {}
// SAFETY: as above; what is read or written through it goes by those methods or by the pointers that it gives, whose users
// make the same promise.
unsafe impl<T: Send + Sync> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { data: slice.as_mut_ptr(), len: slice.len(), marker: PhantomData }
    }

    /// A slice that is only read: nobody may write through it, neither by a part nor by a pointer.
    pub(crate) fn read_only(slice: &'a [T]) -> Self {
        Self { data: slice.as_ptr().cast_mut(), len: slice.len(), marker: PhantomData }
    }

    /// Whether it has no elements.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The part `start..start + len`, to write.
    ///
    /// # Safety
    ///
    /// Nobody else, on this thread or another, may use any element of the part while the returned slice lives.
    pub(crate) unsafe fn part_mut(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start <= self.len && len <= self.len - start, "part {start}+{len} of a slice of {}", self.len);
        // SAFETY: in bounds by the assertion; exclusive by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), len) }
    }

    /// The part `start..start + len`, to read.
    ///
    /// # Safety
    ///
    /// Nobody, on this thread or another, may write any element of the part while the returned slice lives.
    pub(crate) unsafe fn part(&self, start: usize, len: usize) -> &'a [T] {
        assert!(start <= self.len && len <= self.len - start, "part {start}+{len} of a slice of {}", self.len);
        // SAFETY: in bounds by the assertion; nobody writes by the contract.
        unsafe { std::slice::from_raw_parts(self.data.add(start), len) }
    }

    /// The address of the part `start..start + len`, whose elements several threads may write side by side.
    pub(crate) fn part_pointer(&self, start: usize, len: usize) -> *mut T {
        assert!(start <= self.len && len <= self.len - start, "part {start}+{len} of a slice of {}", self.len);
        self.pointer(start)
    }

    /// The address of an element (or of the end), for the micro-kernels.
    pub(crate) fn pointer(&self, index: usize) -> *mut T {
        assert!(index <= self.len, "element {index} of a slice of {}", self.len);
        // SAFETY: in bounds, or one past the end, by the assertion.
        unsafe { self.data.add(index) }
    }
}
