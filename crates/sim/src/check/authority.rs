//! Where a parent decides, all show what it decided: whoever lost finds the value in the conflict log, whoever was refused
//! has the write in the list of rejected ones, and counters and sets keep what everybody did.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use blazedb_core::access::Operation;
use blazedb_core::{RecordId, Stamp, Value};
use blazedb_store::{Dispute, Resolution};

use crate::Failure;
use crate::check::{convergence, mergeable};
use crate::ledger::{Kind, Op};
use crate::world::World;

/// A write of a child that a resolver was asked about: the record, the field (none: a deletion), the stamp.
type Disputed = (RecordId, Option<String>, Stamp);

/// What resolvers decide in a run, and what they have decided.
pub(crate) struct Decisions {
    seed: u64,
    made: Arc<Mutex<Made>>,
}

#[derive(Default)]
struct Made {
    refused: BTreeSet<Disputed>,
    kept: BTreeSet<Disputed>,
}

impl Decisions {
    pub(crate) fn of(seed: u64) -> Self {
        Self { seed, made: Arc::default() }
    }
}

impl World {
    /// Gives a node the resolver of the run, if it has one: in a third of the runs the default rules.
    pub(crate) fn appoint(&mut self, node: usize) {
        let store = self.nodes.get(node).and_then(|node| node.store.clone());
        let (true, Some(store)) = (self.config.authority && self.decisions.seed % 3 != 1, store) else {
            return;
        };
        let (seed, made) = (self.decisions.seed, Arc::clone(&self.decisions.made));
        store.set_resolver(Some(Arc::new(move |dispute: &Dispute<'_>| {
            let resolution = resolve(seed, dispute);
            let disputed = (dispute.id, dispute.field.map(str::to_owned), dispute.child_stamp);
            let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
            match &resolution {
                Resolution::Refuse(_) => drop(made.refused.insert(disputed)),
                Resolution::KeepParent => drop(made.kept.insert(disputed)),
                _ => {}
            }
            resolution
        })));
    }
}

/// Follows from the write alone, so that a dispute that is judged twice ends in the same way.
fn resolve(seed: u64, dispute: &Dispute<'_>) -> Resolution {
    let number = match &dispute.child {
        Some(Value::Int(number)) => number.cast_unsigned(),
        _ => dispute.child_stamp.time.0,
    };
    let mixed = number.wrapping_add(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    match mixed % 3 {
        0 => Resolution::KeepParent,
        1 => Resolution::TakeChild,
        _ => Resolution::Refuse("the dice say no".to_owned()),
    }
}

/// Looks whether all show the same, and where the losers are.
pub(crate) fn check(world: &mut World) -> Result<(), Failure> {
    convergence::check(world)?;
    mergeable::check(world)?;
    for store in world.nodes.iter().filter_map(|node| node.store.as_ref()) {
        world.ledger.note_conflicts(store)?;
    }
    let made = Arc::clone(&world.decisions.made);
    let made = made.lock().unwrap_or_else(PoisonError::into_inner);
    for disputed in &made.refused {
        for op in written(world, disputed).filter(|op| !is_written_over(world, op)) {
            if !is_kept(world, op, disputed)? {
                let lines = super::lines(world.ledger.of_subject(op.subject));
                let detail = format!("{op:?} was refused and is not with its writer; written:{lines}");
                return Err(Failure::new("authority", detail));
            }
        }
    }
    for disputed in &made.kept {
        // It may have been refused in the end, with what came with it, and written over before its writer heard of that.
        let asked = |op: &&Op| matches!(op.kind, Kind::Write(_)) && !is_written_over(world, op);
        for op in written(world, disputed).filter(asked) {
            let field = disputed.1.as_deref().unwrap_or_default();
            if !world.ledger.in_conflict_log(op, field) && !is_kept(world, op, disputed)? {
                let lines = super::lines(world.ledger.of_subject(op.subject));
                let detail = format!("{op:?} was decided against and is in no conflict log; written:{lines}");
                return Err(Failure::new("authority", detail));
            }
        }
    }
    Ok(())
}

/// The writes that a dispute was about.
fn written<'w>(world: &'w World, (id, field, stamp): &'w Disputed) -> impl Iterator<Item = &'w Op> {
    world.ledger.of_id(*id).filter(move |op| {
        op.stamp == *stamp
            && !op.doubtful
            && match (&op.kind, field) {
                (Kind::Write(written), Some(field)) => written == field,
                (Kind::Delete(_), None) => true,
                _ => false,
            }
    })
}

/// Whether its own writer has replaced it since: then there is nothing to take back.
fn is_written_over(world: &World, op: &Op) -> bool {
    let later = |other: &&Op| other.node == op.node && other.stamp > op.stamp;
    world.ledger.of_subject(op.subject).filter(later).any(|other| match (&other.kind, &op.kind) {
        (Kind::Write(a) | Kind::Unset(a), Kind::Write(b)) => a == b,
        (Kind::Delete(_), _) => true,
        _ => false,
    })
}

/// Whether the writer keeps a refused write, or has it in its conflict log because it was overtaken before it was told.
fn is_kept(world: &World, op: &Op, (id, field, _): &Disputed) -> Result<bool, Failure> {
    let Some(store) = world.nodes.get(op.node).and_then(|node| node.store.as_ref()) else { return Ok(true) };
    let rejected = store.rejected()?;
    let mut of_record = rejected.iter().filter(|rejected| rejected.record.id == *id);
    Ok(match field {
        Some(field) => {
            of_record.any(|rejected| {
                rejected.record.get(field).is_some() || rejected.operation == Operation::Delete
            }) || world.ledger.in_conflict_log(op, field)
        }
        None => of_record.next().is_some(),
    })
}
