//! Tensor maps in both forms: the driver's and the emulator's.

use cudarc::driver::sys;
use ptx_emulator::tensor_map::{ElementType, Swizzle, TensorMap};

use super::FileError;

/// A tensor in the input or the output buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// Whether the tensor lies in the output.
    pub of_output: bool,
    /// Everything but the buffer's address, which is counted from.
    tensor: TensorMap,
}

impl Map {
    /// Reads `input f16 dims 64x32 strides 128 box 64x8 [steps 1x2] [swizzle 128] [nan|zero] [at 1024]`.
    ///
    /// # Errors
    /// For other text.
    pub fn parse(text: &str) -> Result<Self, FileError> {
        let wrong = || FileError::new("map", text, "input|output TYPE dims AxB strides S box AxB …");
        let mut words = text.split_whitespace();
        let of_output = match words.next() {
            Some("input") => false,
            Some("output") => true,
            _ => return Err(wrong()),
        };
        let element = words.next().and_then(element).ok_or_else(wrong)?;
        let mut tensor = TensorMap {
            element,
            address: 0,
            dims: Vec::new(),
            strides: Vec::new(),
            box_dims: Vec::new(),
            element_strides: Vec::new(),
            swizzle: Swizzle::None,
            fill_nan: false,
        };
        while let Some(word) = words.next() {
            if let "nan" | "zero" = word {
                tensor.fill_nan = word == "nan";
                continue;
            }
            let numbers: Option<Vec<u64>> =
                words.next().and_then(|list| list.split('x').map(|n| n.parse().ok()).collect());
            let numbers = numbers.ok_or_else(wrong)?;
            let small = || numbers.iter().map(|number| *number as u32).collect();
            match word {
                "dims" => tensor.dims = numbers,
                "strides" => tensor.strides = numbers,
                "box" => tensor.box_dims = small(),
                "steps" => tensor.element_strides = small(),
                "at" => tensor.address = numbers[0],
                "swizzle" => {
                    tensor.swizzle = match numbers[0] {
                        0 => Swizzle::None,
                        32 => Swizzle::Bytes32,
                        64 => Swizzle::Bytes64,
                        128 => Swizzle::Bytes128,
                        _ => return Err(wrong()),
                    }
                }
                _ => return Err(wrong()),
            }
        }
        if tensor.element_strides.is_empty() {
            tensor.element_strides = vec![1; tensor.dims.len()];
        }
        Ok(Self { of_output, tensor })
    }

    /// As the emulator encodes it, for a buffer at `address`.
    ///
    /// # Errors
    /// What the emulator refuses.
    pub fn emulated(&self, address: u64) -> Result<[u64; 16], String> {
        self.at(address).encode().map_err(|error| error.to_string())
    }

    /// As the driver encodes it, for a buffer at `address`.
    ///
    /// # Errors
    /// What the driver refuses.
    pub fn cuda(&self, address: u64) -> Result<[u64; 16], String> {
        let tensor = self.at(address);
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        // SAFETY: the arrays have as many elements as the rank asks for; the address is not followed.
        let result = unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                data_type(tensor.element),
                tensor.dims.len() as u32,
                tensor.address as *mut std::ffi::c_void,
                tensor.dims.as_ptr(),
                tensor.strides.as_ptr(),
                tensor.box_dims.as_ptr(),
                tensor.element_strides.as_ptr(),
                sys::CUtensorMapInterleave_enum::CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzle(tensor.swizzle),
                sys::CUtensorMapL2promotion_enum::CU_TENSOR_MAP_L2_PROMOTION_NONE,
                if tensor.fill_nan {
                    sys::CUtensorMapFloatOOBfill_enum::CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA
                } else {
                    sys::CUtensorMapFloatOOBfill_enum::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE
                },
            )
        };
        if result == sys::CUresult::CUDA_SUCCESS {
            Ok(map.opaque)
        } else {
            Err(format!("{result:?} for {tensor:?}"))
        }
    }

    fn at(&self, address: u64) -> TensorMap {
        TensorMap { address: address + self.tensor.address, ..self.tensor.clone() }
    }
}

fn element(name: &str) -> Option<ElementType> {
    Some(match name {
        "u8" => ElementType::U8,
        "u16" => ElementType::U16,
        "u32" => ElementType::U32,
        "s32" => ElementType::I32,
        "u64" => ElementType::U64,
        "s64" => ElementType::I64,
        "f16" => ElementType::F16,
        "bf16" => ElementType::Bf16,
        "f32" => ElementType::F32,
        "tf32" => ElementType::Tf32,
        "f64" => ElementType::F64,
        _ => return None,
    })
}

fn data_type(element: ElementType) -> sys::CUtensorMapDataType_enum {
    use sys::CUtensorMapDataType_enum as DataType;
    match element {
        ElementType::U8 => DataType::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        ElementType::U16 => DataType::CU_TENSOR_MAP_DATA_TYPE_UINT16,
        ElementType::U32 => DataType::CU_TENSOR_MAP_DATA_TYPE_UINT32,
        ElementType::I32 => DataType::CU_TENSOR_MAP_DATA_TYPE_INT32,
        ElementType::U64 => DataType::CU_TENSOR_MAP_DATA_TYPE_UINT64,
        ElementType::I64 => DataType::CU_TENSOR_MAP_DATA_TYPE_INT64,
        ElementType::F16 => DataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        ElementType::F32 => DataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        ElementType::F64 => DataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT64,
        ElementType::Bf16 => DataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        ElementType::Tf32 => DataType::CU_TENSOR_MAP_DATA_TYPE_TFLOAT32,
    }
}

fn swizzle(swizzle: Swizzle) -> sys::CUtensorMapSwizzle_enum {
    use sys::CUtensorMapSwizzle_enum as Mode;
    match swizzle {
        Swizzle::None => Mode::CU_TENSOR_MAP_SWIZZLE_NONE,
        Swizzle::Bytes32 => Mode::CU_TENSOR_MAP_SWIZZLE_32B,
        Swizzle::Bytes64 => Mode::CU_TENSOR_MAP_SWIZZLE_64B,
        Swizzle::Bytes128 => Mode::CU_TENSOR_MAP_SWIZZLE_128B,
    }
}
