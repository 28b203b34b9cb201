//! The formats of the paged KV cache, byte by byte.
//!
//! A cache is a sequence of pages of `page_size` tokens, [`KvFormat::page_stride`] bytes apart by convention and at
//! least [`KvFormat::page_bytes`]. A token's head (*NoPE*, without position) comes before its tail (*RoPE*):
//!
//! ```text
//! Bf16, Fp16   token t, 1152 bytes:  512 × 16-bit NoPE │ 64 × 16-bit RoPE
//!
//! V32Fp8       token t, 656 bytes:   512 × e4m3 NoPE │ 4 × f32 scale │ 64 × bf16 RoPE
//!
//! Model1Fp8    page, 584 bytes a token, in two planes:
//!              token t, 576 bytes:   448 × e4m3 NoPE │ 64 × bf16 RoPE      page_size times
//!              token t, 8 bytes:     7 × ue8m0 scale │ pad                 page_size times
//! ```
//!
//! An FP8 value is `bf16(e4m3) · bf16(scale)`, rounded to bf16. A scale serves [`KvFormat::quant_tile`] elements; the
//! `ue8m0` byte `s` means 2^(s − 127). The pad byte holds anything and is never read; writers leave 0.
//!
//! Values are the first [`KvFormat::head_dim_v`] elements of the same tokens. All offsets count bytes and are 64-bit:
//! no `u32` number of tokens overflows them.

use core::fmt;
use core::ops::Range;

/// How a cache stores a token. The numbers are what kernel parameters carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u32)]
pub enum KvFormat {
    /// bfloat16, one row per key/value head.
    Bf16 = 0,
    /// IEEE half precision, one row per key/value head.
    Fp16 = 1,
    /// DeepSeek V3.2: FP8 with a scale per 128 elements, 656 bytes a token.
    V32Fp8 = 2,
    /// DeepSeek V4 ("MODEL1"): FP8 with a scale per 64 elements, 584 bytes a token.
    Model1Fp8 = 3,
}

/// Where the tokens of a page lie; ranges are relative to the page.
///
/// A `token` past the page yields a range past the field, never a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLayout {
    format: KvFormat,
    page_size: u32,
}

/// A number that stands for no [`KvFormat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownKvFormat(pub u32);

impl KvFormat {
    /// All formats.
    pub const ALL: [Self; 4] = [Self::Bf16, Self::Fp16, Self::V32Fp8, Self::Model1Fp8];

    /// The name in case files, command lines and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
            Self::V32Fp8 => "v32_fp8",
            Self::Model1Fp8 => "model1_fp8",
        }
    }

    /// The format of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Elements of a query and of a key.
    pub const fn head_dim(self) -> u32 {
        self.nope_dim() + self.rope_dim()
    }

    /// Elements of a value: the first of the key's. With [`KvFormat::Model1Fp8`] that is the whole key.
    pub const fn head_dim_v(self) -> u32 {
        512
    }

    /// Elements of a key without positional encoding: its head.
    pub const fn nope_dim(self) -> u32 {
        match self {
            Self::Bf16 | Self::Fp16 | Self::V32Fp8 => 512,
            Self::Model1Fp8 => 448,
        }
    }

    /// Elements of a key with rotary positional encoding: its tail.
    pub const fn rope_dim(self) -> u32 {
        64
    }

    /// Whether the NoPE elements are FP8 (e4m3) with scales.
    pub const fn is_fp8(self) -> bool {
        self.quant_tile().is_some()
    }

    /// NoPE elements that share a scale, in FP8 formats.
    pub const fn quant_tile(self) -> Option<u32> {
        match self {
            Self::Bf16 | Self::Fp16 => None,
            Self::V32Fp8 => Some(128),
            Self::Model1Fp8 => Some(64),
        }
    }

    /// Scales of a token; 0 in 16-bit formats.
    pub const fn scale_count(self) -> u32 {
        match self.quant_tile() {
            Some(tile) => self.nope_dim() / tile,
            None => 0,
        }
    }

    /// Bytes of a scale: f32 in [`KvFormat::V32Fp8`], `ue8m0` in [`KvFormat::Model1Fp8`]; 0 in 16-bit formats.
    pub const fn scale_bytes(self) -> u32 {
        match self {
            Self::Bf16 | Self::Fp16 => 0,
            Self::V32Fp8 => 4,
            Self::Model1Fp8 => 1,
        }
    }

    /// Bytes a token (of one key/value head) takes in a page, in all its planes.
    pub const fn bytes_per_token(self) -> u32 {
        self.row_bytes() + self.scale_plane_bytes()
    }

    /// Bytes of a page's tokens: the least stride between pages.
    pub const fn page_bytes(self, page_size: u32) -> u64 {
        page_size as u64 * self.bytes_per_token() as u64
    }

    /// The conventional stride between pages, for whoever allocates a cache.
    ///
    /// [`KvFormat::Model1Fp8`] rounds it up to whole token rows of 576 bytes, which keeps all rows of all pages on one
    /// 576-byte grid. Readers take any stride of at least [`KvFormat::page_bytes`].
    pub const fn page_stride(self, page_size: u32) -> u64 {
        let bytes = self.page_bytes(page_size);
        match self {
            Self::Bf16 | Self::Fp16 | Self::V32Fp8 => bytes,
            Self::Model1Fp8 => {
                let row = self.row_bytes() as u64;
                bytes.div_ceil(row) * row
            }
        }
    }

    /// The layout of a page of `page_size` tokens.
    pub const fn page(self, page_size: u32) -> PageLayout {
        PageLayout { format: self, page_size }
    }

    /// Bytes of a token's NoPE elements.
    const fn nope_bytes(self) -> u32 {
        if self.is_fp8() { self.nope_dim() } else { 2 * self.nope_dim() }
    }

    /// Bytes of a token's RoPE elements, 16-bit in every format.
    const fn rope_bytes(self) -> u32 {
        2 * self.rope_dim()
    }

    /// Bytes of a token's scales.
    const fn scales_bytes(self) -> u32 {
        self.scale_count() * self.scale_bytes()
    }

    /// Bytes from token to token in a page's first plane.
    const fn row_bytes(self) -> u32 {
        let inline_scales = match self {
            Self::Model1Fp8 => 0,
            Self::Bf16 | Self::Fp16 | Self::V32Fp8 => self.scales_bytes(),
        };
        self.nope_bytes() + inline_scales + self.rope_bytes()
    }

    /// Bytes from token to token in a page's second plane, if it has one.
    const fn scale_plane_bytes(self) -> u32 {
        match self {
            Self::Model1Fp8 => self.scales_bytes() + 1,
            Self::Bf16 | Self::Fp16 | Self::V32Fp8 => 0,
        }
    }
}

impl PageLayout {
    /// The bytes of the token that its NoPE elements take.
    pub const fn nope(self, token: u32) -> Range<u64> {
        range(self.row(token), self.format.nope_bytes())
    }

    /// The token's 16-bit RoPE elements.
    pub const fn rope(self, token: u32) -> Range<u64> {
        let rope_bytes = self.format.rope_bytes();
        range(self.row(token) + (self.format.row_bytes() - rope_bytes) as u64, rope_bytes)
    }

    /// The token's scales, without padding; empty in 16-bit formats.
    pub const fn scales(self, token: u32) -> Range<u64> {
        let start = match self.format {
            KvFormat::Model1Fp8 => {
                let plane = self.page_size as u64 * self.format.row_bytes() as u64;
                plane + token as u64 * self.format.scale_plane_bytes() as u64
            }
            KvFormat::Bf16 | KvFormat::Fp16 | KvFormat::V32Fp8 => self.nope(token).end,
        };
        range(start, self.format.scales_bytes())
    }

    /// The bytes after the token's scales that belong to nothing; empty but in [`KvFormat::Model1Fp8`].
    pub const fn padding(self, token: u32) -> Range<u64> {
        let padding = match self.format {
            KvFormat::Model1Fp8 => self.format.scale_plane_bytes() - self.format.scales_bytes(),
            KvFormat::Bf16 | KvFormat::Fp16 | KvFormat::V32Fp8 => 0,
        };
        range(self.scales(token).end, padding)
    }

    /// All that the token has in the page's first plane, where tokens are rows.
    pub const fn token_data(self, token: u32) -> Range<u64> {
        range(self.row(token), self.format.row_bytes())
    }

    const fn row(self, token: u32) -> u64 {
        token as u64 * self.format.row_bytes() as u64
    }
}

impl From<KvFormat> for u32 {
    fn from(format: KvFormat) -> Self {
        format as Self
    }
}

impl TryFrom<u32> for KvFormat {
    type Error = UnknownKvFormat;

    fn try_from(number: u32) -> Result<Self, UnknownKvFormat> {
        Self::ALL.into_iter().find(|&format| u32::from(format) == number).ok_or(UnknownKvFormat(number))
    }
}

impl fmt::Display for KvFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for UnknownKvFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no KV cache format has the number {}", self.0)
    }
}

impl core::error::Error for UnknownKvFormat {}

const fn range(start: u64, bytes: u32) -> Range<u64> {
    start..start + bytes as u64
}
