//! Tensor maps: what the copy engine must know of a tensor to fetch boxes of it.

use super::check;
use crate::Error;
use cudarc::driver::sys;
use oximla_types::kernels::TensorMap;

/// A rank-4 tensor of 16-bit elements, innermost dimension first, in boxes with 128-byte swizzle.
pub(super) struct HalfTensor4 {
    pub(super) is_bf16: bool,
    pub(super) address: u64,
    pub(super) dims: [u64; 4],
    /// Bytes from one index to the next along dimensions 1, 2 and 3; multiples of 16.
    pub(super) strides: [u64; 3],
    pub(super) box_dims: [u32; 4],
}

impl HalfTensor4 {
    /// Has the driver encode the map. A computation on the host: nothing is allocated or launched.
    pub(super) fn encode(&self) -> Result<TensorMap, Error> {
        use sys::CUtensorMapDataType_enum as DataType;
        let data_type = if self.is_bf16 {
            DataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
        } else {
            DataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16
        };
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        // SAFETY: the arrays have as many elements as the rank asks for; the address is not followed.
        check("cuTensorMapEncodeTiled", unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                data_type,
                4,
                self.address as *mut std::ffi::c_void,
                self.dims.as_ptr(),
                self.strides.as_ptr(),
                self.box_dims.as_ptr(),
                [1; 4].as_ptr(),
                sys::CUtensorMapInterleave_enum::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle_enum::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion_enum::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill_enum::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        })?;
        Ok(TensorMap(map.opaque))
    }
}
