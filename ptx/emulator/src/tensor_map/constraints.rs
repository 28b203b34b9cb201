//! What `cuTensorMapEncodeTiled` refuses (CUDA driver API, "Tensor Map Object Management").

use super::{MAX_RANK, Swizzle, TensorMap, TensorMapError};

/// Alignment of addresses and strides in global memory, and of rows of a box.
const ALIGNMENT: u64 = 16;
const MAX_DIM: u64 = 1 << 32;
const STRIDE_END: u64 = 1 << 40;
const MAX_BOX_DIM: u32 = 256;
const MAX_ELEMENT_STRIDE: u32 = 8;
/// The shared memory that a CTA can have on compute capability 9.0. The driver does not check it, but no instruction
/// could copy a larger box.
const MAX_SHARED_BYTES: u32 = 227 * 1024;

impl TensorMap {
    /// Checks what the driver would check.
    ///
    /// # Errors
    /// Names the first field that breaks a constraint.
    pub fn validate(&self) -> Result<(), TensorMapError> {
        let rank = self.rank();
        require((1..=MAX_RANK).contains(&rank), "the number of dims", rank, "1 to 5")?;
        let lengths = [
            ("the number of strides", self.strides.len(), rank - 1),
            ("the number of box_dims", self.box_dims.len(), rank),
            ("the number of element_strides", self.element_strides.len(), rank),
        ];
        for (field, found, needed) in lengths {
            require(found == needed, field, found, format!("{needed} for {rank} dims"))?;
        }
        require(
            self.address.is_multiple_of(ALIGNMENT),
            "address",
            format!("{:#x}", self.address),
            "a multiple of 16",
        )?;
        each("dims", &self.dims, |dim| (1..=MAX_DIM).contains(&dim), "1 to 2^32")?;
        let stride_fits = |stride: u64| stride.is_multiple_of(ALIGNMENT) && stride < STRIDE_END;
        each("strides", &self.strides, stride_fits, "a multiple of 16 below 2^40")?;
        each("box_dims", &self.box_dims, |dim| (1..=MAX_BOX_DIM).contains(&dim), "1 to 256")?;
        let fits = |stride| (1..=MAX_ELEMENT_STRIDE).contains(&stride);
        each("element_strides", &self.element_strides, fits, "1 to 8")?;
        self.validate_box()?;
        require(
            !self.fill_nan || self.element.nan().is_some(),
            "fill_nan",
            format!("true for {:?}", self.element),
            "false for integers",
        )
    }

    /// Checks the box in shared memory.
    fn validate_box(&self) -> Result<(), TensorMapError> {
        let row = self.row_bytes();
        let inner = format!("{} elements of {} bytes", self.box_dims[0], self.element.bytes());
        require(u64::from(row).is_multiple_of(ALIGNMENT), "box_dims[0]", &inner, "a multiple of 16 bytes")?;
        let span = self.swizzle.span();
        require(
            self.swizzle == Swizzle::None || row <= span,
            "box_dims[0]",
            &inner,
            format!("at most the {span} bytes of the swizzle"),
        )?;
        let bytes = self.shared_bytes();
        require(
            bytes <= MAX_SHARED_BYTES,
            "the box",
            format!("{bytes} bytes"),
            format!("at most {MAX_SHARED_BYTES}"),
        )
    }
}

fn require(
    holds: bool,
    field: &str,
    found: impl ToString,
    needed: impl ToString,
) -> Result<(), TensorMapError> {
    if holds { Ok(()) } else { Err(TensorMapError::new(field, found, needed)) }
}

/// Checks every element of an array.
fn each<T: Copy + ToString>(
    field: &str,
    values: &[T],
    holds: impl Fn(T) -> bool,
    needed: &str,
) -> Result<(), TensorMapError> {
    match values.iter().position(|value| !holds(*value)) {
        None => Ok(()),
        Some(index) => Err(TensorMapError::new(format!("{field}[{index}]"), values[index], needed)),
    }
}
