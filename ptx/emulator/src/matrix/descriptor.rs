//! Matrix descriptors of `wgmma` (PTX ISA, "Matrix Descriptor Format").

use super::swizzle::Swizzle;

/// The fields of a descriptor; addresses and distances in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Bits 0 to 13: the address in shared memory where the operand begins.
    pub start: u32,
    /// Bits 16 to 29: leading dimension byte offset.
    pub leading: u32,
    /// Bits 32 to 45: stride dimension byte offset.
    pub stride: u32,
    /// Bits 49 to 51: how many lines of 128 bytes behind a multiple of its length the swizzle pattern begins.
    pub base_offset: u32,
    /// Bits 62 and 63.
    pub swizzle: Swizzle,
}

/// Why a descriptor describes no operand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("descriptor {descriptor:#018x}: {field} is {found:#x}; needed is {needed}")]
pub struct DescriptorError {
    /// The descriptor.
    pub descriptor: u64,
    /// The field that is wrong.
    pub field: &'static str,
    /// What it holds.
    pub found: u64,
    /// What would be right.
    pub needed: String,
}

/// Runs of bits that must be zero: the first, and how many.
const RESERVED: [(u32, u32, &str); 4] =
    [(14, 2, "bits 14-15"), (30, 2, "bits 30-31"), (46, 3, "bits 46-48"), (52, 10, "bits 52-61")];

/// Addresses and distances are stored without their lowest four bits.
const ADDRESS_SHIFT: u32 = 4;

/// Bits of a stored address or distance.
const ADDRESS_BITS: u32 = 14;

impl Descriptor {
    /// Reads the fields.
    ///
    /// # Errors
    /// If reserved bits are set, or a base offset is given where nothing is swizzled.
    pub fn decode(descriptor: u64) -> Result<Self, DescriptorError> {
        let error = |field, found, needed: &str| DescriptorError {
            descriptor,
            field,
            found: u64::from(found),
            needed: needed.to_string(),
        };
        let bits = |first: u32, count: u32| (descriptor >> first & ((1 << count) - 1)) as u32;
        let address = |first| bits(first, ADDRESS_BITS) << ADDRESS_SHIFT;
        for (first, count, name) in RESERVED {
            if bits(first, count) != 0 {
                return Err(error(name, bits(first, count), "0, as they are reserved"));
            }
        }
        let swizzle = match bits(62, 2) {
            0 => Swizzle::None,
            1 => Swizzle::Bytes128,
            2 => Swizzle::Bytes64,
            _ => Swizzle::Bytes32,
        };
        let base_offset = bits(49, 3);
        if swizzle == Swizzle::None && base_offset != 0 {
            return Err(error("base offset", base_offset, "0 without swizzle"));
        }
        Ok(Self { start: address(0), leading: address(16), stride: address(32), base_offset, swizzle })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let descriptor = 0x3fff | 0x2001 << 16 | 0x1234 << 32 | 5 << 49 | 2 << 62;
        let fields = Descriptor {
            start: 0x3_fff0,
            leading: 0x2_0010,
            stride: 0x1_2340,
            base_offset: 5,
            swizzle: Swizzle::Bytes64,
        };
        assert_eq!(Descriptor::decode(descriptor), Ok(fields));
        let modes = [Swizzle::None, Swizzle::Bytes128, Swizzle::Bytes64, Swizzle::Bytes32];
        for (code, swizzle) in (0u64..).zip(modes) {
            assert_eq!(Descriptor::decode(code << 62).map(|d| d.swizzle), Ok(swizzle));
        }
    }

    #[test]
    fn every_reserved_bit_is_refused() {
        for bit in (14..16).chain(30..32).chain(46..49).chain(52..62) {
            let error = Descriptor::decode(1 << bit | 1 << 62).unwrap_err();
            assert!(error.needed.contains("reserved"), "bit {bit}: {error}");
        }
        let error = Descriptor::decode(3 << 49).unwrap_err();
        assert_eq!((error.field, error.found), ("base offset", 3));
        assert_eq!(
            error.to_string(),
            "descriptor 0x0006000000000000: base offset is 0x3; needed is 0 without swizzle"
        );
    }
}
