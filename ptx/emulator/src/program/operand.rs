//! Operands, resolved: registers by number, names by value.

use ptx_syntax::ast::Type;

/// Number of a register of an entry.
pub(crate) type Register = u32;

/// Where the value of an operand comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A register.
    Register(Register),
    /// The complement of a predicate register.
    Not(Register),
    /// The same value in every thread.
    Immediate(u64),
    /// A special register.
    Special(Special),
}

/// An address: a base and a constant number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) base: Source,
    pub(crate) offset: i64,
    /// Whether the base has 32 bits, in which the sum then wraps.
    pub(crate) is_narrow: bool,
}

/// State space of an access, as the instruction names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Generic,
    Global,
    Const,
    Local,
    Param,
    SharedCta,
    SharedCluster,
}

/// Special registers (PTX ISA, "Special Registers"); an axis is 0, 1 or 2 for x, y, z.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    Clusterid(usize),
    Nclusterid(usize),
    ClusterCtaid(usize),
    ClusterNctaid(usize),
    ClusterCtarank,
    ClusterNctarank,
    IsExplicitCluster,
    Laneid,
    Warpid,
    Nwarpid,
    Smid,
    Nsmid,
    Gridid,
    LanemaskEq,
    LanemaskLe,
    LanemaskLt,
    LanemaskGe,
    LanemaskGt,
    Clock,
    Globaltimer,
    TotalSharedBytes,
    DynamicSharedBytes,
}

impl Special {
    /// The register of a name such as `%tid.x`.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let name = name.strip_prefix('%')?;
        if let Some((vector, component)) = name.split_once('.') {
            let axis = ["x", "y", "z"].iter().position(|axis| *axis == component)?;
            return Some(match vector {
                "tid" => Self::Tid(axis),
                "ntid" => Self::Ntid(axis),
                "ctaid" => Self::Ctaid(axis),
                "nctaid" => Self::Nctaid(axis),
                "clusterid" => Self::Clusterid(axis),
                "nclusterid" => Self::Nclusterid(axis),
                "cluster_ctaid" => Self::ClusterCtaid(axis),
                "cluster_nctaid" => Self::ClusterNctaid(axis),
                _ => return None,
            });
        }
        Some(match name {
            "cluster_ctarank" => Self::ClusterCtarank,
            "cluster_nctarank" => Self::ClusterNctarank,
            "is_explicit_cluster" => Self::IsExplicitCluster,
            "laneid" => Self::Laneid,
            "warpid" => Self::Warpid,
            "nwarpid" => Self::Nwarpid,
            "smid" => Self::Smid,
            "nsmid" => Self::Nsmid,
            "gridid" => Self::Gridid,
            "lanemask_eq" => Self::LanemaskEq,
            "lanemask_le" => Self::LanemaskLe,
            "lanemask_lt" => Self::LanemaskLt,
            "lanemask_ge" => Self::LanemaskGe,
            "lanemask_gt" => Self::LanemaskGt,
            "clock" | "clock64" => Self::Clock,
            "globaltimer" => Self::Globaltimer,
            "total_smem_size" => Self::TotalSharedBytes,
            "dynamic_smem_size" => Self::DynamicSharedBytes,
            _ => return None,
        })
    }
}

/// Keeps the low `bits` bits.
pub(crate) fn truncate(value: u64, bits: u32) -> u64 {
    if bits >= 64 { value } else { value & ((1 << bits) - 1) }
}

/// Extends the sign of a value of `bits` bits to 64.
pub(crate) fn sign_extend(value: u64, bits: u32) -> u64 {
    let unused = 64 - bits.min(64);
    ((value << unused) as i64 >> unused) as u64
}

/// Bits of a register of a type; a predicate has one.
pub(crate) fn register_bits(ty: Type) -> u32 {
    if ty == Type::Pred { 1 } else { ty.bytes() * 8 }
}
