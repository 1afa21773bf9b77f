//! What was deleted does not come back unless it is inserted again.

use crate::Failure;
use crate::check::expected_at;
use crate::ledger::{INSERT, Kind, shown};
use crate::world::World;

/// Looks on every node for records whose deletion it must know of.
pub(crate) fn check(world: &World) -> Result<(), Failure> {
    for (index, node) in world.nodes.iter().enumerate() {
        let Some(store) = &node.store else { continue };
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
