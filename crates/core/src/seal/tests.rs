//! Sealed states merge as plain ones do, open to what was sealed, and to nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::cells::{open_state, seal_state};
use super::pack::Packer;
use super::*;
use crate::blazebinary::{FieldNo, OwnedValue, encode_value};
use crate::cell::{Cell, Content, Counter, Set};
use crate::feed::{Audience, FeedBatch, FeedEntry, Incoming, Names, PeerNames};
use crate::history::{HistoryHead, HistoryWriter, encode_body};
use crate::merge::tests::{Replicas, id, joined, plain, reencode, script, stamp};
use crate::merge::{Life, RecordState};
use crate::{RecordId, ReplicaId, Value, version};

const NAMES: [&str; 3] = ["b", "a", "c"];

fn keys(epochs: u32) -> SealKeys {
    let secrets: Vec<_> = (1..=epochs).map(|epoch| (epoch, Secret::new([epoch as u8; 32]))).collect();
    SealKeys::new([7; 16], &Secret::new([9; 32]), secrets.iter().map(|(epoch, secret)| (*epoch, secret)))
        .unwrap()
}

fn record() -> RecordId {
    RecordId::v7(1, [3; 10])
}

fn tag(keys: &SealKeys, field: FieldNo) -> FieldTag {
    keys.seal_name(NAMES[field as usize]).unwrap().0
}

/// Field 2 stays readable.
fn sealed(keys: &SealKeys, state: &RecordState) -> RecordState {
    seal_state(&mut Packer::new(keys), record(), state.clone(), |field| {
        (field != 2).then(|| tag(keys, field))
    })
    .unwrap()
}

fn opened(keys: &SealKeys, state: &RecordState) -> Result<RecordState, SealError> {
    let mut state = state.clone();
    open_state(&mut Packer::new(keys), record(), &mut state, |field| Ok(tag(keys, field)))?;
    Ok(state)
}

/// The history hash with names as the hub has them.
fn hash(keys: &SealKeys, state: &RecordState) -> version::Hash {
    let names: Vec<String> = NAMES.iter().map(|name| keys.seal_name(name).unwrap().1).collect();
    version::history(record(), state, |no| if no == 2 { NAMES[2] } else { &names[no as usize] })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_was_sealed_opens_to_the_same(script in script()) {
        let keys = keys(1);
        for state in Replicas::run(&script).snapshots {
            let hidden = sealed(&keys, &state);
            prop_assert!(hidden.cells.iter().all(|(no, cell)| *no == 2 || matches!(cell.content, Content::Sealed(_))));
            prop_assert_eq!(&opened(&keys, &hidden).unwrap(), &state);
            prop_assert_eq!(sealed(&keys, &state), hidden, "the same again");
        }
    }

    #[test]
    fn a_hub_that_reads_nothing_merges_as_a_member_does(script in script(), picks: [prop::sample::Index; 3]) {
        let keys = keys(1);
        let snapshots = Replicas::run(&script).snapshots;
        let [a, b, c] = picks.map(|pick| plain(&snapshots[pick.index(snapshots.len())]));
        let [x, y, z] = [&a, &b, &c].map(|state| sealed(&keys, state));
        let both = joined(&x, &y);
        prop_assert_eq!(&both, &joined(&y, &x));
        prop_assert_eq!(joined(&both, &z), joined(&x, &joined(&y, &z)));
        prop_assert_eq!(&joined(&x, &x), &x);
        let mut again = both.clone();
        prop_assert!(!again.merge(y.clone(), 9).changed);
        prop_assert!(!again.merge(x.clone(), 9).changed);
        prop_assert_eq!(opened(&keys, &both).unwrap(), joined(&a, &b));
        prop_assert_eq!(hash(&keys, &both), hash(&keys, &joined(&a, &b)), "reconciliation finds them equal");
        // A member that has both and seals anew says nothing new; what it made of two forms of a set moves in the feed.
        let mut told = both.clone();
        let report = told.merge(sealed(&keys, &joined(&a, &b)), 9);
        prop_assert!(report.sender_is_behind.is_empty());
        prop_assert_eq!(plain(&opened(&keys, &told).unwrap()), joined(&a, &b));
    }

    #[test]
    fn sealed_histories_round_trip(script in script()) {
        let keys = keys(1);
        let replicas = Replicas::run(&script);
        for state in &replicas.snapshots {
            let state = sealed(&keys, state);
            prop_assert_eq!(&reencode(&state, Some(replicas.seq)), &state);
            prop_assert_eq!(reencode(&state, None), plain(&state));
        }
    }

    /// A form under another key replaces the older one everywhere, and plain forms give way.
    #[test]
    fn forms_of_one_write_come_to_the_same_in_any_order(script in script(), pick: prop::sample::Index) {
        let (old, new) = (keys(1), keys(2));
        let snapshots = Replicas::run(&script).snapshots;
        let state = plain(&snapshots[pick.index(snapshots.len())]);
        let forms = [state.clone(), sealed(&old, &state), sealed(&new, &state)];
        let newest = &forms[2];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
            let [first, second, third] = order.map(|at| &forms[at]);
            prop_assert_eq!(&joined(&joined(first, second), third), newest);
        }
    }
}

#[test]
fn a_group_goes_with_the_last_of_its_cells() {
    let keys = keys(1);
    let register = |n: i64| Content::Register(OwnedValue::from(&Value::Int(n)));
    let cell = |at, n| Cell::write(stamp(at, 0), None, register(n), 0);
    let life = Life { born: Some(stamp(1, 0)), ..Life::default() };
    let whole = RecordState { life, cells: vec![(0, cell(1, 1)), (1, cell(1, 2))] };
    let first = RecordState { life, cells: vec![(0, cell(2, 3))] };
    let second = RecordState { life, cells: vec![(1, cell(3, 4))] };
    let has_first_write = |state: &RecordState| state.cells.iter().any(|(_, cell)| cell.stamp == stamp(1, 0));
    let mut hub = sealed(&keys, &whole);
    hub.merge(sealed(&keys, &first), 1);
    assert!(has_first_write(&hub));
    // A device that holds only the rest of the first write doesn't displace the whole of it.
    let rest = RecordState { life, cells: vec![(1, cell(1, 2))] };
    assert!(!hub.merge(sealed(&keys, &rest), 2).changed);
    hub.merge(sealed(&keys, &second), 3);
    assert!(!has_first_write(&hub));
    assert_eq!(plain(&opened(&keys, &hub).unwrap()).cells, vec![(0, cell(2, 3)), (1, cell(3, 4))]);
}

/// A batch of one inserted record and one that was changed, as a member's feed has it.
fn batch(records: &[(RecordId, RecordState)]) -> FeedBatch {
    let mut batch = FeedBatch::empty(0, 9);
    for (record, state) in records {
        let (mut history, mut body) = (Vec::new(), Vec::new());
        let mut number = |writer: ReplicaId| u32::from(writer.as_bytes()[0]);
        HistoryWriter { writer_no: &mut number, row_seq: None }.state(state, |_| true, &mut history);
        encode_body(state, |_| true, &mut Default::default(), &mut body).unwrap();
        crate::blazebinary::varint::write_varint((body.len() as u64) << 1 | 1, &mut batch.data);
        crate::blazebinary::varint::write_varint(history.len() as u64, &mut batch.data);
        batch.data.extend_from_slice(record.as_bytes());
        batch.data.extend_from_slice(&history);
        batch.data.extend_from_slice(&body);
        batch.entries.push(FeedEntry { end: batch.data.len() as u32, audience: Audience::Everybody });
    }
    let fields = (0..).zip(NAMES).map(|(no, name)| (no, Arc::from(name))).collect();
    batch.names = Names { fields, writers: (1..5).map(|no| (no, id(no as usize - 1))).collect() };
    batch
}

fn incoming(batch: &FeedBatch) -> Incoming {
    let mut names = PeerNames::default();
    assert!(names.learn(batch.names.clone()));
    Incoming { data: batch.data.clone(), names: Arc::new(names), checkpoint: Some(9), peer_has: 0 }
}

fn sealer() -> Sealer {
    Sealer::new(keys(1), EncryptionSpec::E2eOnly { routing_fields: vec!["c".to_owned()] })
}

fn other_record() -> RecordId {
    RecordId::v7(2, [4; 10])
}

/// An inserted record with a marker, and one with every kind of field.
fn two_records() -> Vec<(RecordId, RecordState)> {
    let text = |text: &str| Content::Register(OwnedValue::from(&Value::from(text)));
    let cell = |stamp, content| Cell::write(stamp, None, content, 0);
    let born = HistoryHead::inserted(stamp(5, 0)).life;
    let inserted = vec![
        (0, cell(stamp(5, 0), text("MARKER-b"))),
        (1, cell(stamp(5, 0), text(&"MARKER-large ".repeat(3)))),
        (2, cell(stamp(5, 0), text("ios"))),
    ];
    let set = Set::assigned([OwnedValue::from(&Value::from("MARKER-element"))], stamp(6, 1));
    let mut counter = Counter::default();
    counter.add(stamp(7, 2), 5);
    let changed = vec![
        (0, cell(stamp(6, 1), Content::Set(set))),
        (1, cell(stamp(7, 2), Content::Counter(counter))),
        (2, cell(stamp(8, 1), Content::Absent)),
    ];
    vec![
        (record(), RecordState { life: born, cells: inserted }),
        (other_record(), RecordState { life: born, cells: changed }),
    ]
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn a_batch_shows_nothing_and_opens_to_what_it_was() {
    let sealer = sealer();
    let plain = batch(&two_records());
    let sealed = sealer.seal_batch(&plain, true).unwrap();
    assert!(!contains(&sealed.data, b"MARKER"));
    assert!(contains(&sealed.data, b"ios"), "what is routed by stays readable");
    let names: Vec<&str> = sealed.names.fields.iter().map(|(_, name)| &**name).collect();
    assert!(is_sealed_name(names[0]) && is_sealed_name(names[1]) && names[2] == "c");
    let mut arrived = incoming(&sealed);
    assert_eq!(sealer.open_batch(&mut arrived).unwrap(), []);
    assert_eq!(arrived.data, plain.data);
    assert_eq!(arrived.names.field(1).map(|name| &**name), Some("a"));
    assert_eq!(
        sealer.seal_batch(&plain, true).unwrap().data,
        sealed.data,
        "sealing again gives the same bytes"
    );
}

/// Records with the same fields share what follows from these: one with others in between gets nothing of theirs.
#[test]
fn records_with_different_fields_are_sealed_as_each_alone() {
    let sealer = sealer();
    let shapes: [&[FieldNo]; 9] =
        [&[0, 1, 2], &[0, 1, 2], &[1], &[0, 1, 2], &[2], &[0], &[0, 2], &[1, 2], &[0, 1, 2]];
    let record = |n: u64, fields: &[FieldNo]| {
        let text = |field| OwnedValue::from(&Value::from(format!("value {field} of {n}")));
        let cell = |field| Cell::write(stamp(n, 0), None, Content::Register(text(field)), 0);
        let cells = fields.iter().map(|field| (*field, cell(*field))).collect();
        (RecordId::v7(n, [3; 10]), RecordState { life: HistoryHead::inserted(stamp(n, 0)).life, cells })
    };
    let records: Vec<_> = (1..).zip(shapes).map(|(n, fields)| record(n, fields)).collect();
    let plain = batch(&records);
    let sealed = sealer.seal_batch(&plain, true).unwrap();
    let alone = |record| sealer.seal_batch(&batch(std::slice::from_ref(record)), true).unwrap().data;
    assert_eq!(sealed.data, records.iter().flat_map(alone).collect::<Vec<_>>());
    let mut arrived = incoming(&sealed);
    assert_eq!(sealer.open_batch(&mut arrived).unwrap(), []);
    assert_eq!(arrived.data, plain.data);
}

#[test]
fn a_large_value_is_sealed_alone() {
    let mut records = two_records();
    let large = Content::Register(OwnedValue::from(&Value::from("x".repeat(2_000))));
    records[0].1.cells[1].1.content = large;
    let (sealer, plain) = (sealer(), batch(&records));
    let sealed = sealer.seal_batch(&plain, true).unwrap();
    let mut arrived = incoming(&sealed);
    assert_eq!(sealer.open_batch(&mut arrived).unwrap(), []);
    assert_eq!(arrived.data, plain.data);
}

/// Every flipped bit is found, and costs no more than its own record.
#[test]
fn a_flipped_bit_is_named_and_the_other_record_arrives() {
    let sealer = sealer();
    let sealed = sealer.seal_batch(&batch(&two_records()), true).unwrap();
    let first = sealed.entries[0].end as usize;
    let mut named = 0;
    for at in 18..first {
        for bit in 0..8 {
            let mut arrived = incoming(&sealed);
            arrived.data[at] ^= 1 << bit;
            match sealer.open_batch(&mut arrived) {
                // No entry any more: the session ends.
                Err(_) => {}
                Ok(unopened) => {
                    if let [Unopened { id, reason }] = &unopened[..] {
                        assert!(*id == record() || at < 18 + 16, "{id}");
                        assert_ne!(reason, &SealError::NotSealed("c".to_owned()));
                        named += 1;
                    } else {
                        // Only what is not sealed may have changed unnoticed.
                        assert!(unopened.is_empty());
                        let clean = incoming(&batch(&two_records()));
                        let readable = contains(&arrived.data, b"MARKER-b");
                        assert!(readable && arrived.data.len() == clean.data.len(), "byte {at}");
                    }
                }
            }
        }
    }
    assert!(named > 8 * 60, "{named}");
}

/// What a hub can do with sealed cells: move them to another record, stamp, field or database.
#[test]
fn a_moved_value_does_not_open() {
    let keys = keys(1);
    let state = sealed(&keys, &two_records()[0].1);
    assert!(opened(&keys, &state).is_ok());
    let tampered = |result: Result<(), SealError>| assert_eq!(result, Err(SealError::Tampered));
    let own = |field| Ok(tag(&keys, field));
    tampered(open_state(&mut Packer::new(&keys), other_record(), &mut state.clone(), own));
    tampered(open_state(&mut Packer::new(&keys), record(), &mut state.clone(), |field| {
        Ok(tag(&keys, 1 - field))
    }));
    let regroup = |change: &dyn Fn(&mut SealedGroup)| {
        let mut state = state.clone();
        let Content::Sealed(Sealed::Write { group, .. }) = &state.cells[0].1.content else { panic!() };
        let mut group = SealedGroup::clone(group);
        change(&mut group);
        let group = Arc::new(group);
        for (_, cell) in &mut state.cells[..2] {
            cell.content = Content::Sealed(Sealed::Write { group: Arc::clone(&group), absent: false });
        }
        open_state(&mut Packer::new(&keys), record(), &mut state, own)
    };
    assert_eq!(regroup(&|_| {}), Ok(()));
    tampered(regroup(&|group| group.stamp = stamp(9, 0)));
    tampered(regroup(&|group| group.fields[0].absent = true));
    tampered(regroup(&|group| group.fields[0].replaced = vec![stamp(1, 1)]));
    tampered(regroup(&|group| drop(group.fields.pop())));
    assert_eq!(regroup(&|group| group.epoch = 2), Err(SealError::NoKey(2)));
    let secret = Secret::new([1; 32]);
    let elsewhere = SealKeys::new([8; 16], &Secret::new([9; 32]), [(1, &secret)]).unwrap();
    tampered(open_state(&mut Packer::new(&elsewhere), record(), &mut state.clone(), own));
}

#[test]
fn a_sealed_set_is_bound_to_what_it_has_seen() {
    let keys = keys(1);
    let state = sealed(&keys, &two_records()[1].1);
    for at in [0, 1] {
        let mut forged = state.clone();
        let Content::Sealed(Sealed::Mergeable(set)) = &mut forged.cells[at].1.content else { panic!() };
        set.versions[0].seen.insert(id(3), crate::Hlc(99));
        assert_eq!(opened(&keys, &forged), Err(SealError::Tampered));
    }
}

#[test]
fn a_readable_value_in_the_place_of_a_sealed_one_is_not_taken() {
    let sealer = sealer();
    let plain = batch(&two_records());
    let mut arrived = incoming(&plain);
    let unopened = sealer.open_batch(&mut arrived).unwrap();
    assert_eq!(unopened.len(), 2);
    assert!(matches!(&unopened[0].reason, SealError::NotSealed(name) if name == "b"));
    assert!(arrived.data.is_empty());
}

/// The names that sealed fields have are no secret to a hub: a readable value under one is sealed by nobody.
#[test]
fn a_readable_value_under_a_sealed_name_is_not_taken() {
    let sealer = sealer();
    let sealed_name = |name: &str| Arc::<str>::from(keys(1).seal_name(name).unwrap().1);
    let mut forged = batch(&two_records());
    for (_, name) in &mut forged.names.fields {
        *name = sealed_name(name);
    }
    let mut arrived = incoming(&forged);
    let unopened = sealer.open_batch(&mut arrived).unwrap();
    assert!(unopened.iter().all(|unopened| unopened.reason == SealError::Tampered), "{unopened:?}");
    assert_eq!((unopened.len(), arrived.data.len()), (2, 0));
    // Beside what is sealed as well.
    let mut forged = sealer.seal_batch(&batch(&two_records()), true).unwrap();
    assert_eq!(&*forged.names.fields[2].1, "c");
    forged.names.fields[2].1 = sealed_name("salary");
    let mut arrived = incoming(&forged);
    assert_eq!(sealer.open_batch(&mut arrived).unwrap().len(), 2);
    assert!(arrived.data.is_empty());
}

#[test]
fn names_are_sealed_the_same_way_and_open_in_their_database_only() {
    let keys = keys(1);
    for name in ["a", "priority", "ä".repeat(79).as_str()] {
        let (tag, text) = keys.seal_name(name).unwrap();
        assert!(text.len() <= crate::limits::MAX_FIELD_NAME_BYTES);
        assert_eq!(keys.open_name(&text), Ok((tag, name.to_owned())));
        assert_eq!(keys.seal_name(name).unwrap().1, text);
        let other = SealKeys::new([8; 16], &Secret::new([9; 32]), []).unwrap();
        assert_eq!(other.open_name(&text), Err(SealError::Tampered));
    }
    assert!(matches!(keys.seal_name(&"x".repeat(160)), Err(SealError::LongName(_))));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The golden vectors of `vectors/sealing.json`.
#[test]
fn golden_vectors() {
    let file: serde_json::Value =
        serde_json::from_str(include_str!("../../../../vectors/sealing.json")).unwrap();
    let keys = keys(1);
    for case in file["names"].as_array().unwrap() {
        let (tag, text) = keys.seal_name(case["name"].as_str().unwrap()).unwrap();
        assert_eq!(
            (hex(&tag), text.as_str()),
            (case["tag"].as_str().unwrap().to_owned(), case["sealed"].as_str().unwrap())
        );
    }
    let mut found = BTreeMap::new();
    for (name, (_, state)) in ["inserted", "changed"].into_iter().zip(two_records()) {
        for (field, cell) in sealed(&keys, &state).cells {
            let bytes = match &cell.content {
                Content::Sealed(Sealed::Write { group, .. }) => hex(&group.bytes),
                Content::Sealed(Sealed::Mergeable(mergeable)) => hex(&mergeable.versions[0].bytes),
                Content::Register(value) => {
                    let mut bytes = Vec::new();
                    encode_value(&value.to_value(), &mut bytes);
                    hex(&bytes)
                }
                _ => String::new(),
            };
            found.insert(format!("{name}.{}", NAMES[field as usize]), bytes);
        }
    }
    let found = serde_json::to_value(found).unwrap();
    assert_eq!(found, file["cells"], "{found:#}");
}
