//! Links carry changes only the way that their mode allows: what a node shows was written by a node whose changes
//! may get there. A read-only replica's edits stay where they are, a write-only replica receives nothing.

use blazedb_core::Value;

use crate::Failure;
use crate::check::reaches;
use crate::ledger::NUMBERED;
use crate::world::World;

/// Traces everything that every node shows to its writer.
pub(crate) fn check(world: &World) -> Result<(), Failure> {
    for (index, node) in world.nodes.iter().enumerate() {
        let Some(store) = &node.store else { continue };
        let mut strangers = Vec::new();
        store.export(|record| {
            for (field, value) in record.fields.iter().filter(|(field, _)| NUMBERED.contains(&field.as_str()))
            {
                let number = if let Value::Int(number) = value { *number } else { continue };
                let writer = world.ledger.op(number).map(|op| op.node);
                if !writer.is_some_and(|writer| reaches(world, writer, index)) {
                    strangers.push(format!("{}.{field} = {number} of node {writer:?}", record.id));
                }
            }
            true
        })?;
        if let Some(first) = strangers.first() {
            return Err(Failure::new("mode", format!("node {index} shows {first}, which may not get there")));
        }
    }
    Ok(())
}
