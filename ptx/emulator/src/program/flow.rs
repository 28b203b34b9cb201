//! Control flow: where diverged threads meet again.

use super::operand::Register;

/// No instruction: the end of the entry.
pub(crate) const END: u32 = u32::MAX;

/// Where control goes after an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Successors {
    /// Whether the next instruction may follow.
    pub(crate) falls_through: bool,
    /// A branch's targets; [`END`] where the instruction may end the thread.
    pub(crate) targets: Vec<u32>,
}

/// Straight pieces of code.
struct Blocks {
    /// First instruction of each block; the number of instructions at the end.
    starts: Vec<u32>,
    /// Successors of each block; the number of blocks stands for the end of the entry.
    successors: Vec<Vec<usize>>,
}

/// For each instruction, the first one that every path from it to the end comes through after the control flow has
/// parted: the immediate post-dominator of its block. [`END`] where paths meet at the end only.
pub(crate) fn reconvergence(flow: &[Successors]) -> Vec<u32> {
    let blocks = Blocks::of(flow);
    let post_dominators = blocks.immediate_post_dominators();
    let mut points = vec![END; flow.len()];
    for (block, post_dominator) in post_dominators.iter().enumerate() {
        let point = match post_dominator {
            Some(next) if *next < blocks.successors.len() => blocks.starts[*next],
            _ => END,
        };
        points[blocks.starts[block] as usize..blocks.starts[block + 1] as usize].fill(point);
    }
    points
}

impl Blocks {
    fn of(flow: &[Successors]) -> Self {
        let mut is_start = vec![false; flow.len() + 1];
        is_start[0] = true;
        for (at, successors) in flow.iter().enumerate() {
            is_start[at + 1] |= !successors.targets.is_empty() || !successors.falls_through;
            for target in successors.targets.iter().filter(|target| **target != END) {
                is_start[*target as usize] = true;
            }
        }
        let mut starts: Vec<u32> = (0..flow.len() as u32).filter(|at| is_start[*at as usize]).collect();
        let count = starts.len();
        starts.push(flow.len() as u32);
        let block_of = |at: u32| match starts[..count].binary_search(&at) {
            Ok(block) => block,
            Err(_) => count,
        };
        let successors = (0..count)
            .map(|block| {
                let last = starts[block + 1] - 1;
                let Successors { falls_through, targets } = &flow[last as usize];
                let next = falls_through.then(|| block_of(last + 1));
                next.into_iter().chain(targets.iter().map(|target| block_of(*target))).collect()
            })
            .collect();
        Self { starts, successors }
    }

    /// By the algorithm of Cooper, Harvey and Kennedy ("A Simple, Fast Dominance Algorithm") on the reversed graph,
    /// whose root is the end of the entry. `None` for blocks from which the end cannot be reached.
    fn immediate_post_dominators(&self) -> Vec<Option<usize>> {
        let end = self.successors.len();
        let mut predecessors = vec![Vec::new(); end + 1];
        for (block, successors) in self.successors.iter().enumerate() {
            successors.iter().for_each(|next| predecessors[*next].push(block));
        }
        // Post-order of a walk from the end along reversed edges.
        let mut order = vec![usize::MAX; end + 1];
        let mut visited = vec![false; end + 1];
        let mut finished = Vec::new();
        let mut stack = vec![(end, 0)];
        visited[end] = true;
        while let Some((node, next)) = stack.pop() {
            match predecessors[node].get(next) {
                Some(&predecessor) => {
                    stack.push((node, next + 1));
                    if !std::mem::replace(&mut visited[predecessor], true) {
                        stack.push((predecessor, 0));
                    }
                }
                None => {
                    order[node] = finished.len();
                    finished.push(node);
                }
            }
        }
        let mut dominator = vec![None; end + 1];
        dominator[end] = Some(end);
        let mut changed = true;
        while changed {
            changed = false;
            for &node in finished.iter().rev().filter(|node| **node != end) {
                let known = self.successors[node].iter().copied().filter(|next| dominator[*next].is_some());
                let meet = known.reduce(|mut a, mut b| {
                    while a != b {
                        while order[a] < order[b] {
                            a = dominator[a].unwrap_or(end);
                        }
                        while order[b] < order[a] {
                            b = dominator[b].unwrap_or(end);
                        }
                    }
                    a
                });
                if meet.is_some() && dominator[node] != meet {
                    dominator[node] = meet;
                    changed = true;
                }
            }
        }
        dominator.truncate(end);
        dominator
    }
}

/// What an instruction does to registers.
#[derive(Clone, Debug, Default)]
pub(crate) struct RegisterUse {
    pub(crate) reads: Vec<Register>,
    pub(crate) writes: Vec<Register>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEXT: Successors = Successors { falls_through: true, targets: Vec::new() };

    fn branch(target: u32) -> Successors {
        Successors { falls_through: true, targets: vec![target] }
    }

    fn jump(target: u32) -> Successors {
        Successors { falls_through: false, targets: vec![target] }
    }

    fn exit() -> Successors {
        jump(END)
    }

    #[test]
    fn both_arms_meet_behind_the_if() {
        // 0: if → 3; 1, 2: then, jump 4; 3: else; 4: return
        let flow = [branch(3), NEXT, jump(4), NEXT, exit()];
        assert_eq!(reconvergence(&flow), [4, 4, 4, 4, END]);
    }

    #[test]
    fn a_loop_meets_at_its_exit() {
        // 0; 1: body; 2: if → 1; 3: return
        let flow = [NEXT, NEXT, branch(1), exit()];
        assert_eq!(reconvergence(&flow)[2], 3);
    }

    #[test]
    fn early_returns_meet_at_the_end() {
        // 0: if → 2; 1: return; 2: return
        let flow = [branch(2), exit(), exit()];
        assert_eq!(reconvergence(&flow)[0], END);
    }

    #[test]
    fn all_arms_of_a_switch_meet_behind_it() {
        // 0: to 1, 3 or 5; 1: first, 2: jump 6; 3: second, 4: jump 6; 5: third; 6: return
        let switch = Successors { falls_through: false, targets: vec![1, 3, 5] };
        let flow = [switch, NEXT, jump(6), NEXT, jump(6), NEXT, exit()];
        assert_eq!(reconvergence(&flow)[..6], [6; 6]);
    }

    #[test]
    fn endless_loops_are_no_trouble() {
        let flow = [branch(2), exit(), jump(2)];
        assert_eq!(reconvergence(&flow)[0], 1);
        assert_eq!(reconvergence(&[jump(0)]), [END]);
    }
}
