//! Whatever is accepted as a history with its body reads back as the same state, and merging it is idempotent.
#![no_main]

use blazedb_core::ReplicaId;
use blazedb_core::blazebinary::varint::Reader;
use blazedb_core::blazebinary::{RecordBuilder, validate_record};
use blazedb_core::history::{HistoryReader, HistoryWriter, encode_body};
use blazedb_core::merge::RecordState;
use libfuzzer_sys::fuzz_target;

fn writer(number: u32) -> Option<ReplicaId> {
    (number < 64).then(|| ReplicaId::from_bytes([number as u8; 16]))
}

fuzz_target!(|input: (u16, bool, &[u8])| {
    let (split, on_disk, bytes) = input;
    let (history, body) = bytes.split_at(usize::from(split).min(bytes.len()));
    if !body.is_empty() && validate_record(body).is_err() {
        return;
    }
    let row_seq = on_disk.then_some(1_000);
    let reader = HistoryReader { writer: &writer, row_seq };
    let mut rest = Reader::new(history);
    let Ok(state) = reader.state(&mut rest, body) else { return };
    let (mut again, mut body_again) = (Vec::new(), Vec::new());
    let mut number = |writer: ReplicaId| u32::from(writer.as_bytes()[0]);
    HistoryWriter { writer_no: &mut number, row_seq }.state(&state, |_| true, &mut again);
    encode_body(&state, |_| true, &mut RecordBuilder::new(), &mut body_again).expect("no larger than it was");
    let mut rest = Reader::new(&again);
    assert_eq!(reader.state(&mut rest, &body_again).as_ref(), Ok(&state));
    assert!(rest.is_empty());
    let mut joined = RecordState::default();
    joined.merge(state.clone(), 1);
    let once = joined.clone();
    assert!(!joined.merge(state, 2).changed, "merging again changes nothing");
    assert_eq!(joined, once);
});
