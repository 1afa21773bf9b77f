//! What was deleted does not come back unless it is inserted again, not even as an empty shell: whatever is shown
//! comes from an insert.

use crate::Failure;
use crate::check::expected_at;
use crate::ledger::{Class, INSERT, Kind, shown};
use crate::world::World;

/// Looks on every node for records whose deletion it must know of.
pub(crate) fn check(world: &World) -> Result<(), Failure> {
    for (index, node) in world.nodes.iter().enumerate() {
        let Some(store) = &node.store else { continue };
        for subject in world.ledger.subjects.iter().filter(|subject| subject.class != Class::Pair) {
            let record = store.get(subject.id)?;
            if record.is_some() && shown(record.as_ref(), INSERT).is_none() {
                let detail =
                    format!("node {index} shows record {} without what its insert wrote", subject.id);
                return Err(Failure::new("delete", detail));
            }
        }
        for op in expected_at(world, index).filter(|op| !op.doubtful) {
            let (Kind::Delete(insert), Some(id)) = (&op.kind, world.ledger.id_of(op.subject)) else {
                continue;
            };
            let record = store.get(id)?;
            if shown(record.as_ref(), INSERT) == Some(*insert) {
                let detail =
                    format!("node {index} shows record {id} of insert {insert}, which {op:?} deleted");
                return Err(Failure::new("delete", detail));
            }
        }
    }
    Ok(())
}
