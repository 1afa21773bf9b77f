//! Who is woken, and that nobody passes over what concerns it.

use std::sync::Arc;

use blazedb_core::blazebinary::varint::Reader as Bytes;
use blazedb_core::feed::FeedBatch;
use blazedb_core::view::{Lens, Side, ViewRequest};
use blazedb_core::{RecordId, ReplicaId, Timestamp};
use blazedb_store::Password;

use super::*;
use crate::{Database, record};

fn database(dir: &tempfile::TempDir) -> Database {
    Database::open(dir.path().join("x"), Password::Plaintext).unwrap()
}

fn view(filter: &str) -> View {
    ViewRequest { filter: Some(filter.to_owned()), excluded: Vec::new() }.view(None, Timestamp(0)).unwrap()
}

/// Waits until it is woken, not for ever.
async fn woken(watch: &mut ViewWatch) -> Seq {
    tokio::time::timeout(Duration::from_secs(20), watch.changed()).await.unwrap()
}

fn id(no: u64) -> RecordId {
    RecordId::v7(1_700_000_000_000 + no, [1; 10])
}

/// From now on former states are kept.
fn keep_states(database: &Database) {
    database.store().show("link", ReplicaId::from_bytes([9; 16]), &view("a == 1"), false, false).unwrap();
}

#[tokio::test]
async fn only_those_are_woken_whom_a_change_concerns() {
    let dir = tempfile::tempdir().unwrap();
    let database = database(&dir);
    keep_states(&database);
    let mut watches: Vec<ViewWatch> =
        (0..100).map(|n| database.watch_view(&view(&format!("owner == \"u{n}\" && open")))).collect();
    for watch in &mut watches {
        woken(watch).await;
    }
    // Those who may not pass over what was written last: the time at which all learn where they stand does not count.
    let concerned = |watches: &[ViewWatch]| -> Vec<usize> {
        let head = database.store().head();
        let stopped = |watch: &ViewWatch| watch.0.clear_upto(head - 1) < head;
        let found = (0..).zip(watches).filter(|(_, watch)| stopped(watch)).map(|(n, _)| n).collect();
        watches.iter().for_each(|watch| assert_eq!(watch.0.clear_upto(head), head));
        found
    };
    database.insert_with_id(id(1), record! { "owner" => "u7", "open" => true }).unwrap();
    while woken(&mut watches[7]).await < database.store().head() {}
    assert_eq!(concerned(&watches), [7]);
    // From one to another: both are concerned, the one by what it was.
    database.update(id(1), record! { "owner" => "u8" }).unwrap();
    while woken(&mut watches[8]).await < database.store().head() {}
    assert_eq!(concerned(&watches), [7, 8]);
    database.delete(id(1)).unwrap();
    while woken(&mut watches[8]).await < database.store().head() {}
    assert_eq!(concerned(&watches), [8]);
    drop(watches);
    let state = database.inner.wakes.state();
    assert!(state.index.is_empty() && state.standing.is_empty() && state.by_peer.is_empty());
}

#[tokio::test]
async fn without_former_states_everybody_is_woken() {
    let dir = tempfile::tempdir().unwrap();
    let database = database(&dir);
    let mut watch = database.watch_view(&view("owner == \"u1\""));
    woken(&mut watch).await;
    database.insert_with_id(id(1), record! { "owner" => "u2" }).unwrap();
    assert_eq!(woken(&mut watch).await, 1);
}

/// What a batch says of which records.
fn told(batch: &FeedBatch) -> Vec<RecordId> {
    let mut start = 0;
    let mut ids = Vec::new();
    for entry in &batch.entries {
        let mut bytes = Bytes::new(&batch.data[start..entry.end as usize]);
        bytes.read_varint().unwrap();
        bytes.read_varint().unwrap();
        ids.push(RecordId::from_bytes(bytes.read_array().unwrap()));
        start = entry.end as usize;
    }
    ids
}

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Whoever passes over something is told the same as if it had read it.
#[tokio::test]
async fn what_is_passed_over_holds_nothing_for_who_passes_it() {
    for seed in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let database = database(&dir);
        keep_states(&database);
        let mut state = seed;
        let mut below = |limit: u64| random(&mut state) % limit;
        let filters =
            ["team == \"a\"", "team == \"b\" && level == 1", "level in [0, 2]", "level > 1", "team != \"c\""];
        let mut readers: Vec<(Lens, Place, Seq)> = Vec::new();
        let mut passed = 0;
        for step in 0..120 {
            if step % 20 == 0 {
                for filter in filters {
                    let lens = Lens { view: Arc::new(view(filter)), ..Lens::all(Side::Serve) };
                    let after = database.store().head().saturating_sub(below(3));
                    let place = database.inner.wakes.enter(&database.inner, &lens.view, 0, after);
                    readers.push((lens, place, after));
                }
            }
            let (team, level) = (["a", "b", "c"][below(3) as usize], below(3) as i64);
            database
                .transaction(|tx| {
                    for _ in 0..1 + below(3) {
                        let no = id(below(12));
                        match below(6) {
                            0 if tx.get(no)?.is_some() => tx.delete(no)?,
                            1..=3 => drop(tx.upsert(no, &record! { "level" => level })?),
                            _ => drop(tx.upsert(no, &record! { "team" => team, "level" => level })?),
                        }
                    }
                    Ok(())
                })
                .unwrap();
            database.inner.wakes.judge(database.store()).unwrap();
            for (lens, place, after) in &mut readers {
                if below(3) == 0 {
                    let clear = database.store().pass_over(*after, place.clear_upto(*after));
                    let all = database.store().feed(*after, usize::MAX, lens).unwrap();
                    let rest = told(&database.store().feed(clear, usize::MAX, lens).unwrap());
                    // There may be more: where others have stopped that had less, more is sent to be safe.
                    let missing = told(&all).into_iter().find(|id| !rest.contains(id));
                    assert_eq!(missing, None, "seed {seed}, step {step}: {after} to {clear}");
                    passed += u64::from(clear > *after);
                    *after = all.upto;
                }
            }
        }
        assert!(passed > 20, "{passed}");
    }
}
