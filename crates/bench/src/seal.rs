//! Sealing and opening records, beside what the ciphers and the compression in it cost by themselves.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use blazedb::Fields;
use blazedb_core::feed::{FeedBatch, Incoming, PeerNames};
use blazedb_core::seal::{Dictionary, Samples, SealKeys, Sealer, Secret};
use blazedb_core::topology::EncryptionSpec;
use blazedb_core::view::{Lens, Side};
use blazedb_store::Store;

use crate::encode::blaze;
use crate::error::BenchError;
use crate::node;
use crate::raw::as_f64;
use crate::records::records;
use crate::report::Measure;
use crate::usage::thread_cpu;

/// Records, and those of one batch.
const RECORDS: u64 = 20_000;
/// Length of a batch, in bytes: about that of a first sync.
const BATCH_BYTES: usize = 256 << 10;
/// One record in so many is a sample for the dictionary, and it is made for a database of so many.
const RECORDS_A_SAMPLE: usize = 5;
const DATABASE: u64 = 100_000;
/// Rounds; the fastest counts, which is the one least disturbed.
const ROUNDS: usize = 9;

pub(crate) fn run() -> Result<Vec<Measure>, BenchError> {
    let dir = tempfile::tempdir()?;
    let database = node::open(dir.path(), "seal", false, false)?;
    for from in (0..RECORDS).step_by(1_000) {
        database.insert_many(records(from, 1_000))?;
    }
    let batches = feed(database.store())?;
    let mut measures = Vec::new();
    let sealer = with_dictionary()?;
    for (packs, name) in [(false, "not packed"), (true, "packed")] {
        let sealed =
            batches.iter().map(|batch| sealer.seal_batch(batch, packs)).collect::<Result<Vec<_>, _>>()?;
        let arriving: Vec<Incoming> = sealed.iter().map(incoming).collect();
        let sealing =
            fastest(|| batches.iter().for_each(|batch| drop(black_box(sealer.seal_batch(batch, packs)))));
        let opening = fastest(|| {
            for batch in &arriving {
                drop(black_box(sealer.open_batch(&mut batch.clone())));
            }
        });
        let length = mean_len(&sealed);
        let limit = bare(length as usize)?;
        let what = |what: &str| format!("seal: {what} a record, {name}");
        measures.push(Measure::beside(what("seal") + ", beside AES-GCM-SIV of it", sealing, "us", limit));
        measures.push(Measure::beside(what("open") + ", beside AES-GCM-SIV of it", opening, "us", limit));
        measures.push(Measure::beside(
            what("length of") + ", beside its plain form",
            length,
            "B",
            mean_len(&batches),
        ));
    }
    Ok(measures)
}

fn mean_len(batches: &[FeedBatch]) -> f64 {
    as_f64(batches.iter().map(|batch| batch.data.len() as u64).sum()) / as_f64(RECORDS)
}

/// The whole feed of a store, not sealed.
fn feed(store: &Store) -> Result<Vec<FeedBatch>, BenchError> {
    let lens = Lens::all(Side::Serve);
    let mut batches = Vec::new();
    let mut after = 0;
    while after < store.head() {
        let batch = store.feed(after, BATCH_BYTES, &lens)?;
        after = batch.upto;
        batches.push(batch);
    }
    Ok(batches)
}

/// What a peer that gets a batch has to open.
fn incoming(batch: &FeedBatch) -> Incoming {
    let mut names = PeerNames::default();
    // They are those of one store, so that no number has two.
    let _ = names.learn(batch.names.clone());
    Incoming { data: batch.data.clone(), names: Arc::new(names), checkpoint: None, peer_has: 0 }
}

fn rule() -> EncryptionSpec {
    EncryptionSpec::E2eOnly { routing_fields: Vec::new() }
}

fn keys() -> Result<SealKeys, BenchError> {
    let secret = Secret::new([1; 32]);
    SealKeys::new([7; 16], &Secret::new([9; 32]), [(1, &secret)]).ok_or(BenchError::Crypto)
}

/// Seals with a dictionary that was made of some of the records.
fn with_dictionary() -> Result<Sealer, BenchError> {
    let plain = Sealer::new(keys()?, rule());
    let fields: Vec<Fields> = records(0, RECORDS).step_by(RECORDS_A_SAMPLE).collect();
    let names: Vec<String> =
        fields.iter().flat_map(Fields::keys).cloned().collect::<BTreeSet<_>>().into_iter().collect();
    let mut samples = Samples::new(&plain);
    for body in blaze(&fields, &names)? {
        samples.add(&body, |no| names.get(no as usize).map(|name| name.as_str().into()))?;
    }
    let dictionary = samples.dictionary(DATABASE).and_then(|bytes| Dictionary::new(&bytes));
    let mut keys = keys()?;
    keys.set_dictionary(1, dictionary.ok_or(BenchError::NoDictionary)?);
    Ok(Sealer::new(keys, rule()))
}

/// Sealing `len` bytes with nothing around it, in microseconds.
fn bare(len: usize) -> Result<f64, BenchError> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, &[7; 32])?);
    let bytes = vec![7; len];
    let seal = || {
        for _ in 0..RECORDS {
            let mut sealed = bytes.clone();
            let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
            let _ = black_box(key.seal_in_place_append_tag(nonce, Aad::empty(), &mut sealed));
        }
    };
    Ok(fastest(seal))
}

/// Microseconds of a record, in the fastest round.
fn fastest(mut round: impl FnMut()) -> f64 {
    let rounds = (0..ROUNDS).map(|_| {
        let before = thread_cpu();
        round();
        thread_cpu() - before
    });
    rounds.min().unwrap_or_default().as_secs_f64() * 1e6 / as_f64(RECORDS)
}
