//! Checks that every operation shares. Each names the argument, what it was and what was needed.

use crate::{Element, InvalidProblem, KvFormat, Memory, TensorView, TensorViewMut};

type Checked = Result<(), InvalidProblem>;

/// Every dimension is at least 1 and fits the kernels' 32-bit arithmetic.
pub(super) fn dimensions(dims: &[(&str, usize)]) -> Checked {
    dims.iter().try_for_each(|&(name, dim)| {
        require((1..=i32::MAX as usize).contains(&dim), name, dim, format!("in 1..={}", i32::MAX))
    })
}

/// As [`dimensions`], but there may be none of a thing.
pub(super) fn counts(dims: &[(&str, usize)]) -> Checked {
    dims.iter().try_for_each(|&(name, dim)| {
        require(dim <= i32::MAX as usize, name, dim, format!("in 0..={}", i32::MAX))
    })
}

/// Pages of a cache whose tokens i32 can number.
pub(super) fn cache_tokens(num_pages: usize, page_size: usize) -> Checked {
    dimensions(&[("num_pages", num_pages), ("page_size", page_size)])?;
    counts(&[("num_pages · page_size", num_pages * page_size)])
}

/// A cache in FP8.
pub(super) fn fp8_format(format: KvFormat) -> Checked {
    require(format.is_fp8(), "format", format, "v32_fp8 or model1_fp8")
}

/// `value` is one of `allowed`.
pub(super) fn one_of(name: &str, value: usize, allowed: &[usize]) -> Checked {
    require(allowed.contains(&value), name, value, format!("one of {allowed:?}"))
}

/// The softmax scale is a finite number.
pub(super) fn softmax_scale(scale: f32) -> Checked {
    require(scale.is_finite(), "softmax_scale", scale, "a finite number")
}

/// A tensor of these dimensions has no more bytes than an address space.
pub(super) fn extent(name: &str, dims: &[usize], element_bytes: usize) -> Checked {
    let bytes = dims.iter().try_fold(element_bytes, |product, &dim| product.checked_mul(dim));
    let fits = bytes.is_some_and(|bytes| isize::try_from(bytes).is_ok());
    require(fits, name, format!("of shape {dims:?}"), format!("at most {} bytes", isize::MAX))
}

/// An optional tensor is there exactly where the problem has it.
pub(super) fn presence(name: &str, present: bool, planned: bool) -> Checked {
    let word = |present| if present { "present" } else { "absent" };
    require(present == planned, name, word(present), format!("{}, as in the problem", word(planned)))
}

/// Pages of an FP8 cache: bytes within a page lie as the format says, pages do not overlap.
pub(super) fn pages(name: &str, cache: &TensorView<'_, u8, 4>, format: KvFormat) -> Checked {
    let [num_pages, page_size, _, _] = cache.shape;
    let [page_stride, token_stride, _, _] = cache.strides;
    let argument = format!("{name} strides");
    let token_bytes = i64::from(format.bytes_per_token());
    let packed = page_size == 1 || token_stride == token_bytes;
    require(packed, &argument, format!("{token_stride} from token to token"), token_bytes)?;
    let page_bytes = token_bytes.saturating_mul(page_size as i64);
    let apart = num_pages == 1 || page_stride >= page_bytes;
    require(apart, &argument, format!("{page_stride} from page to page"), format!("at least {page_bytes}"))
}

/// `view` can be read as a tensor of `shape` in `memory`, with contiguous innermost rows.
pub(super) fn input<T: Element, const RANK: usize>(
    name: &str,
    view: &TensorView<'_, T, RANK>,
    shape: [usize; RANK],
    memory: Memory,
) -> Checked {
    require(view.memory == memory, name, view.memory, memory)?;
    require(view.shape == shape, name, format!("of shape {:?}", view.shape), format!("shape {shape:?}"))?;
    if shape.contains(&0) {
        return Ok(());
    }
    let strides = view.strides;
    let argument = format!("{name} strides");
    if let Some(last) = RANK.checked_sub(1).filter(|_| RANK > 1) {
        let contiguous = shape[last] == 1 || strides[last] == 1;
        require(contiguous, &argument, format!("{strides:?}"), "1 along the innermost dimension")?;
    }
    require(strides.iter().all(|&s| s >= 0), &argument, format!("{strides:?}"), "none negative")?;
    let extent = extent_bytes::<T, RANK>(shape, strides);
    let end = extent.and_then(|bytes| view.address.checked_add(bytes));
    require(end.is_some(), &argument, format!("{strides:?}"), "an extent that 64-bit addresses can span")?;
    require(view.address != 0, name, "a null pointer", "the address of its elements")?;
    let aligned = view.address.is_multiple_of(align_of::<T>() as u64);
    let needed = format!("aligned to {} bytes", align_of::<T>());
    require(aligned, name, format!("at address {:#x}", view.address), needed)
}

/// As [`input`], and no two indices name the same element.
pub(super) fn output<T: Element, const RANK: usize>(
    name: &str,
    view: &TensorViewMut<'_, T, RANK>,
    shape: [usize; RANK],
    memory: Memory,
) -> Checked {
    let view = &view.view;
    input(name, view, shape, memory)?;
    if shape.contains(&0) {
        return Ok(());
    }
    let mut dims: Vec<(i64, i64)> =
        view.strides.iter().zip(shape).filter(|&(_, len)| len > 1).map(|(&s, len)| (s, len as i64)).collect();
    dims.sort_unstable();
    let mut span = 1_i64;
    for (stride, len) in dims {
        let needed = "no two indices at one element";
        require(stride >= span, &format!("{name} strides"), format!("{:?}", view.strides), needed)?;
        span += stride * (len - 1);
    }
    Ok(())
}

/// Every length in a checked tensor lies in `0..=limit`. On the host only: a GPU's memory cannot be looked at.
pub(super) fn lengths(name: &str, view: &TensorView<'_, i32, 1>, limit: usize) -> Checked {
    if view.memory == Memory::Device {
        return Ok(());
    }
    (0..view.shape[0]).try_for_each(|index| length(&format!("{name}[{index}]"), view.get([index]), limit))
}

/// As [`lengths`], of lists by request and query token, or by request alone.
pub(super) fn list_lengths(name: &str, view: &TensorView<'_, i32, 2>, limit: usize) -> Checked {
    let [requests, queries] = view.shape;
    if view.memory == Memory::Device {
        return Ok(());
    }
    for (request, query) in (0..requests).flat_map(|request| (0..queries).map(move |query| (request, query)))
    {
        let name =
            if queries == 1 { format!("{name}[{request}]") } else { format!("{name}[{request}, {query}]") };
        length(&name, view.get([request, query]), limit)?;
    }
    Ok(())
}

fn length(name: &str, len: i32, limit: usize) -> Checked {
    require(usize::try_from(len).is_ok_and(|len| len <= limit), name, len, format!("in 0..={limit}"))
}

/// An error about `name` unless `valid`.
pub(super) fn require(
    valid: bool,
    name: &str,
    found: impl std::fmt::Display,
    needed: impl std::fmt::Display,
) -> Checked {
    if valid { Ok(()) } else { Err(InvalidProblem::new(name, found, needed)) }
}

/// Bytes from the first to one past the last element; none where they are too many.
fn extent_bytes<T, const RANK: usize>(shape: [usize; RANK], strides: [i64; RANK]) -> Option<u64> {
    let mut elements = 1_i64;
    for (len, stride) in shape.into_iter().zip(strides) {
        let steps = i64::try_from(len - 1).ok()?;
        elements = elements.checked_add(stride.checked_mul(steps)?)?;
    }
    let bytes = elements.checked_mul(size_of::<T>() as i64)?;
    u64::try_from(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view<const RANK: usize>(
        data: &mut [f32],
        shape: [usize; RANK],
        strides: [i64; RANK],
    ) -> TensorViewMut<'_, f32, RANK> {
        // SAFETY: only the description is looked at here.
        unsafe { TensorViewMut::from_raw(data.as_mut_ptr() as u64, shape, strides, Memory::Host) }
    }

    #[test]
    fn overlapping_outputs_are_refused() {
        let mut data = [0.0; 64];
        let ok = view(&mut data, [2, 3, 4], [16, 5, 1]);
        assert!(output("out", &ok, [2, 3, 4], Memory::Host).is_ok());
        let transposed = view(&mut data, [3, 2, 4], [5, 16, 1]);
        assert!(output("out", &transposed, [3, 2, 4], Memory::Host).is_ok());
        for strides in [[16, 3, 1], [9, 5, 1], [0, 5, 1]] {
            let bad = view(&mut data, [2, 3, 4], strides);
            let error = output("out", &bad, [2, 3, 4], Memory::Host).unwrap_err();
            assert_eq!(error.argument, "out strides");
        }
    }

    #[test]
    fn extents_do_not_wrap() {
        let mut data = [0.0; 4];
        let huge = view(&mut data, [3, 2], [i64::MAX / 2, 1]);
        assert_eq!(output("out", &huge, [3, 2], Memory::Host).unwrap_err().argument, "out strides");
    }

    #[test]
    fn memory_and_shape_are_named() {
        let mut data = [0.0; 4];
        let tensor = view(&mut data, [2, 2], [2, 1]);
        let error = output("lse", &tensor, [2, 2], Memory::Device).unwrap_err();
        assert_eq!(error.to_string(), "lse is in host memory; needed is in device memory");
        let error = output("lse", &tensor, [2, 3], Memory::Host).unwrap_err();
        assert_eq!(error.to_string(), "lse is of shape [2, 2]; needed is shape [2, 3]");
    }
}
