//! Sizes of buffers.

/// The elements of a shape; none when there are more than can be counted, which no buffer holds.
pub(crate) fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_that_wraps_around_has_no_number_of_elements() {
        assert_eq!(elements(&[3, 4, 5]), Some(60));
        assert_eq!(elements(&[]), Some(1));
        assert_eq!(elements(&[4, 1 << 62]), None);
    }
}
