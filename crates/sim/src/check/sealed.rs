//! Sealed stays sealed: no value or name of a sealed field is on the wire, in the file of a node without the keys, or
//! shown by it; who was removed from the keyring reads nothing that was written after that.

use blazedb_core::Value;

use crate::Failure;
use crate::network::Place;
use crate::workload::{MARK, MARKED};
use crate::world::World;

/// Looks for marks in a frame.
pub(crate) fn on_sent(world: &World, place: Place, bytes: &[u8]) -> Result<(), Failure> {
    if world.config.sealed && world.config.always_sealed && is_marked(bytes) {
        return Err(Failure::new("sealed", format!("{place:?} sends sealed contents in the clear")));
    }
    Ok(())
}

fn is_marked(bytes: &[u8]) -> bool {
    [MARK, MARKED].iter().any(|mark| bytes.windows(mark.len()).any(|window| window == mark.as_bytes()))
}

/// Looks into the files of those who have no keys, and at what removed members show.
pub(crate) fn check(world: &World) -> Result<(), Failure> {
    if !world.config.sealed {
        return Ok(());
    }
    for (index, node) in world.nodes.iter().enumerate() {
        if !node.member && world.config.always_sealed && node.files_hold(is_marked)? {
            return Err(Failure::new(
                "sealed",
                format!("node {index} has no keys, and its file is readable"),
            ));
        }
        if let (Some((since, _)), Some(store)) = (world.removed_at.get(&index), &node.store) {
            let mut read = None;
            store.export(|record| {
                let numbers = record.fields.values().filter_map(|value| match value {
                    Value::Int(number) => Some(*number),
                    _ => None,
                });
                let late = numbers.filter(|number| number >= since).find(|number| {
                    world
                        .ledger
                        .op(*number)
                        .is_some_and(|op| op.node != index && op.knew_removed.contains(&index))
                });
                read = read.or(late.map(|number| (record.id, number)));
                true
            })?;
            if let Some((id, number)) = read {
                let detail =
                    format!("node {index} was removed from the keyring and reads write {number} of {id}");
                return Err(Failure::new("sealed", detail));
            }
        }
    }
    Ok(())
}
