//! For whom an access is meant (PTX ISA, "Memory Consistency Model", "Scope").

/// A scope, the smallest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// `.cta`
    Cta,
    /// `.cluster`
    Cluster,
    /// `.gpu` and `.sys`: there is no second GPU here.
    Device,
}

impl Scope {
    pub(crate) const ALL: [Self; 3] = [Self::Cta, Self::Cluster, Self::Device];
    pub(crate) const COUNT: usize = Self::ALL.len();
}
