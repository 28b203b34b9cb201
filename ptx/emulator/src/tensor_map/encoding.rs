//! The 128 bytes of a tensor map: sixteen words of this emulator's own form.
//!
//! | word | content |
//! |---|---|
//! | 0 | a magic number |
//! | 1 | element type, rank, swizzle, fill: a byte each |
//! | 2 | address |
//! | 3 to 7 | dims |
//! | 8 to 11 | strides |
//! | 12, 13 | box dims minus 1, element strides: a byte each dimension |
//! | 14, 15 | zero |
//!
//! What belongs to dimensions that the tensor does not have is zero.

use super::{ElementType, MAP_BYTES, Swizzle, TensorMap, TensorMapError};

const MAGIC: u64 = u64::from_le_bytes(*b"ptx-tmap");

const DIMS: usize = 3;
const STRIDES: usize = 8;
const BOX_DIMS: usize = 12;
const ELEMENT_STRIDES: usize = 13;

impl TensorMap {
    /// The 128 bytes, as sixteen little-endian words.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn encode(&self) -> Result<[u64; 16], TensorMapError> {
        self.validate()?;
        let mut words = [0; 16];
        words[0] = MAGIC;
        words[1] = u64::from_le_bytes([
            code(&ElementType::ALL, self.element),
            self.rank() as u8,
            code(&Swizzle::ALL, self.swizzle),
            u8::from(self.fill_nan),
            0,
            0,
            0,
            0,
        ]);
        words[2] = self.address;
        words[DIMS..][..self.dims.len()].copy_from_slice(&self.dims);
        words[STRIDES..][..self.strides.len()].copy_from_slice(&self.strides);
        words[BOX_DIMS] = packed(self.box_dims.iter().map(|dim| dim - 1));
        words[ELEMENT_STRIDES] = packed(self.element_strides.iter().copied());
        Ok(words)
    }

    /// Reads the 128 bytes.
    ///
    /// # Errors
    /// If [`encode`](Self::encode) did not make them.
    pub fn decode(bytes: &[u8; MAP_BYTES]) -> Result<Self, TensorMapError> {
        let words: [u64; 16] = std::array::from_fn(|i| u64::from_le_bytes(bytes.as_chunks().0[i]));
        let hex = |word: u64| format!("{word:#018x}");
        if words[0] != MAGIC {
            return Err(TensorMapError::new("the first word", hex(words[0]), hex(MAGIC)));
        }
        let [element, rank, swizzle, fill_nan, ..] = words[1].to_le_bytes().map(usize::from);
        let unknown = |field, code| TensorMapError::new(field, format!("the code {code}"), "a known one");
        let map = Self {
            element: *ElementType::ALL.get(element).ok_or_else(|| unknown("element", element))?,
            address: words[2],
            dims: words[DIMS..STRIDES].iter().take(rank).copied().collect(),
            strides: words[STRIDES..BOX_DIMS].iter().take(rank.saturating_sub(1)).copied().collect(),
            box_dims: unpacked(words[BOX_DIMS], rank).map(|dim| dim + 1).collect(),
            element_strides: unpacked(words[ELEMENT_STRIDES], rank).collect(),
            swizzle: *Swizzle::ALL.get(swizzle).ok_or_else(|| unknown("swizzle", swizzle))?,
            fill_nan: fill_nan != 0,
        };
        // What validates and encodes to the same words leaves no bit unread.
        if map.encode()? != words {
            return Err(TensorMapError::new("the encoding", "unused bits that are set", "zeros there"));
        }
        Ok(map)
    }
}

/// The place of a value among all.
fn code<T: PartialEq>(all: &[T], value: T) -> u8 {
    all.iter().position(|other| *other == value).map_or(u8::MAX, |place| place as u8)
}

/// Numbers of a byte each, the first lowest.
fn packed(numbers: impl DoubleEndedIterator<Item = u32>) -> u64 {
    numbers.rev().fold(0, |word, number| word << 8 | u64::from(number))
}

fn unpacked(word: u64, count: usize) -> impl Iterator<Item = u32> {
    word.to_le_bytes().into_iter().take(count).map(u32::from)
}
