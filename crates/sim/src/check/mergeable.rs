//! Counters and sets keep what both sides did: a counter is the sum of all increments, and an element whose last
//! addition no removal has seen is there.

use crate::Failure;
use crate::check::expected_at;
use crate::ledger::{COUNT, Class, Kind, Op, Subject, elements, shown};
use crate::world::World;

/// Compares every counter and set on every node with what was done to them.
pub(crate) fn check(world: &World) -> Result<(), Failure> {
    for (index, node) in world.nodes.iter().enumerate() {
        let Some(store) = &node.store else { continue };
        for (no, Subject { id, class }) in world.ledger.subjects.iter().copied().enumerate() {
            let ops: Vec<&Op> = expected_at(world, index).filter(|op| op.subject == no).collect();
            let problem = match class {
                Class::Counter => counter_problem(&ops, shown(store.get(id)?.as_ref(), COUNT).unwrap_or(0)),
                Class::Set => set_problem(&ops, &elements(store.get(id)?.as_ref())),
                _ => None,
            };
            if let Some(problem) = problem {
                let written = super::lines(ops.into_iter());
                let detail = format!("node {index}, record {id}: {problem}; written:{written}");
                return Err(Failure::new("mergeable", detail));
            }
        }
    }
    Ok(())
}

fn counter_problem(ops: &[&Op], shown: i64) -> Option<String> {
    let amount = |op: &&Op| if let Kind::Count(amount) = op.kind { amount } else { 0 };
    let sure: i64 = ops.iter().filter(|op| !op.doubtful).map(amount).sum();
    let most: i64 = ops.iter().map(amount).sum();
    (shown < sure || shown > most)
        .then(|| format!("the counter shows {shown}, counted were {sure} to {most}"))
}

fn set_problem(ops: &[&Op], shown: &[i64]) -> Option<String> {
    let element = |op: &Op| match op.kind {
        Kind::Add(element) | Kind::Remove(element) => Some(element),
        _ => None,
    };
    let mut all: Vec<i64> = ops.iter().filter_map(|op| element(op)).chain(shown.iter().copied()).collect();
    all.sort_unstable();
    all.dedup();
    all.into_iter().find_map(|value| {
        let mine: Vec<&&Op> = ops.iter().filter(|op| element(op) == Some(value)).collect();
        if mine.iter().any(|op| op.doubtful) {
            return None;
        }
        let latest = |adds: bool| {
            mine.iter().filter(|op| matches!(op.kind, Kind::Add(_)) == adds).map(|op| op.stamp).max()
        };
        let (added, removed, there) = (latest(true), latest(false), shown.contains(&value));
        // An element of its own is added once, and whoever removes it has seen that.
        let own = value > 0;
        let wrong = match (there, own) {
            (true, true) => added.is_none() || removed.is_some(),
            (true, false) => added.is_none(),
            (false, _) => added > removed,
        };
        wrong.then(|| format!("element {value} is shown: {there}, added {added:?}, removed {removed:?}"))
    })
}
