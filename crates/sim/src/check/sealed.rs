//! Sealed stays sealed: no value or name of a sealed field is on the wire, in the file of a node without the keys, or
//! shown by it; who was removed from the keyring reads nothing that was written after that; and what lies sealed is
//! under the key that its writer had last, or a later one.

use std::collections::BTreeMap;

use blazedb_core::blazebinary::varint::Reader;
use blazedb_core::cell::Content;
use blazedb_core::history::HistoryReader;
use blazedb_core::seal::Sealed;
use blazedb_core::view::{Lens, Side};
use blazedb_core::{RecordId, Stamp, Value};
use blazedb_store::{Store, StoreError};

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
        if let (false, Some(store)) = (node.member, &node.store) {
            check_epochs(world, index, store)?;
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

/// Looks at the keys of what a node holds that has none itself.
fn check_epochs(world: &World, index: usize, store: &Store) -> Result<(), Failure> {
    let written: BTreeMap<Stamp, u32> = world.ledger.ops.iter().map(|op| (op.stamp, op.epoch)).collect();
    for (id, stamp, epoch) in groups(store)? {
        let known = written.get(&stamp).copied().unwrap_or_default();
        if epoch < known {
            let detail = format!(
                "node {index} holds {stamp:?} of {id} under the key of epoch {epoch}, whose writer had that of {known}"
            );
            return Err(Failure::new("sealed", detail));
        }
    }
    Ok(())
}

/// The write and the epoch of every sealed value that a store holds.
fn groups(store: &Store) -> Result<Vec<(RecordId, Stamp, u32)>, StoreError> {
    let batch = store.feed(0, usize::MAX, &Lens::all(Side::Serve))?;
    let writers: BTreeMap<_, _> = batch.names.writers.iter().copied().collect();
    let writer = |number| writers.get(&number).copied();
    let histories = HistoryReader { writer: &writer, row_seq: None };
    let mut found = Vec::new();
    let mut entries = Reader::new(&batch.data);
    while !entries.is_empty() {
        let len = |len: u64| usize::try_from(len).unwrap_or(usize::MAX);
        let (body, history) = (len(entries.read_varint()? >> 1), len(entries.read_varint()?));
        let id = RecordId::from_bytes(entries.read_array()?);
        let history = entries.read_bytes(history)?;
        let state = histories.state(&mut Reader::new(history), entries.read_bytes(body)?)?;
        for (_, cell) in state.cells {
            if let Content::Sealed(Sealed::Write { group, .. }) = cell.content {
                found.push((id, group.stamp, group.epoch));
            }
        }
    }
    Ok(found)
}
