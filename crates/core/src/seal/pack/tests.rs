//! Values get shorter with a dictionary and come back the same; what was not made so is refused.

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;
use crate::Value;
use crate::blazebinary::RecordBuilder;
use crate::seal::Secret;
use crate::topology::EncryptionSpec;

const CONTEXT: &[u8] = b"a context";

fn keys() -> SealKeys {
    let secrets = [Secret::new([1; 32]), Secret::new([2; 32])];
    SealKeys::new([7; 16], &Secret::new([9; 32]), (1..).zip(&secrets)).unwrap()
}

/// A ticket of a tracker; `n` makes it another one.
fn body(n: u64) -> Vec<u8> {
    let mut builder = RecordBuilder::default();
    let texts = [
        format!("Waiting for the customer since week {}", n % 50),
        format!("department {} of the head office", n * 7 % 40),
        format!("INC{n:08}"),
        ["open", "closed", "resolved"][(n % 3) as usize].to_owned(),
    ];
    for (field, text) in (0..).zip(texts) {
        builder.push(field, &Value::from(text)).unwrap();
    }
    let mut out = Vec::new();
    builder.finish_into(&mut out);
    out
}

fn name(no: FieldNo) -> Option<Arc<str>> {
    Some(["text", "department", "number", "status"][no as usize].into())
}

fn samples(sealer: &Sealer) -> Samples<'_> {
    let mut samples = Samples::new(sealer);
    (0..2_000).for_each(|n| samples.add(&body(n), name).unwrap());
    samples
}

fn trained() -> Vec<u8> {
    let rule = EncryptionSpec::E2eOnly { routing_fields: Vec::new() };
    samples(&Sealer::new(keys(), rule)).dictionary(100_000).unwrap()
}

fn with_dictionary(dictionary: &[u8]) -> SealKeys {
    let mut keys = keys();
    keys.set_dictionary(2, Dictionary::new(dictionary).unwrap());
    keys
}

fn values(n: u64) -> Vec<u8> {
    let mut out = vec![PLAIN_FORM];
    RecordView::parse(&body(n)).unwrap().iter().for_each(|(_, value)| value.encode_into(&mut out));
    out
}

fn sealed(keys: &SealKeys, values: &[u8]) -> Vec<u8> {
    let mut bytes = values.to_vec();
    assert_eq!(Packer::new(keys).seal(CONTEXT, &mut bytes), Ok(2));
    bytes
}

fn opened(keys: &SealKeys, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut bytes = sealed.to_vec();
    Packer::new(keys).open(2, CONTEXT, &mut bytes).map(|()| bytes)
}

/// What a member seals that does not keep to the rules.
fn forged(keys: &SealKeys, plain: &[u8]) -> Vec<u8> {
    let mut bytes = plain.to_vec();
    keys.seal(CONTEXT, &mut bytes).unwrap();
    bytes
}

#[test]
fn values_are_shorter_with_a_dictionary_and_come_back_the_same() {
    let (keys, without) = (with_dictionary(&trained()), keys());
    let mut packer = Packer::new(&keys);
    let (mut short, mut long) = (0, 0);
    for n in 50_000..50_100 {
        let plain = values(n);
        let mut bytes = plain.clone();
        packer.seal(CONTEXT, &mut bytes).unwrap();
        // Whether one packer seals many or each has its own does not show.
        assert_eq!(bytes, sealed(&keys, &plain));
        short += bytes.len();
        long += sealed(&without, &plain).len();
        packer.open(2, CONTEXT, &mut bytes).unwrap();
        assert_eq!(bytes, plain);
    }
    assert!(short * 2 < long, "{short} {long}");
    // What was sealed before there was one opens with it as well; without it nothing opens that needs it.
    assert_eq!(opened(&keys, &sealed(&without, &values(1))), Ok(values(1)));
    let malformed = SealError::Malformed(DecodeError::OutOfRange);
    assert_eq!(opened(&without, &sealed(&keys, &values(1))), Err(malformed));
}

#[test]
fn what_would_not_get_shorter_stays_as_it_is() {
    let (keys, without) = (with_dictionary(&trained()), keys());
    let noise: Vec<u8> = (0_u8..12).flat_map(|n| Sha256::digest([n])).collect();
    // Too short, without anything in common, and so much the same that it could not be told from a bomb.
    for values in [vec![PLAIN_FORM, 0x48], [&[PLAIN_FORM][..], &noise].concat(), vec![PLAIN_FORM; 100_000]] {
        assert_eq!(sealed(&keys, &values), sealed(&without, &values));
        assert_eq!(opened(&keys, &sealed(&keys, &values)), Ok(values));
    }
}

/// A dictionary as zstd takes it.
fn plain(dictionary: &[u8]) -> Vec<u8> {
    zstd::bulk::decompress(dictionary, MAX_DICTIONARY_BYTES).unwrap()
}

#[test]
fn a_bomb_and_a_dictionary_that_is_none_are_refused() {
    let trained = trained();
    let keys = with_dictionary(&trained);
    let mut context = CCtx::create();
    context.ref_cdict(keys.dictionary(2).unwrap().packs().unwrap()).unwrap();
    let mut frame = Vec::with_capacity(100_000);
    context.compress2(&mut frame, &vec![0; 1 << 20]).unwrap();
    let bomb = [&[PACKED_FORM], frame.strip_prefix(&MAGIC).unwrap()].concat();
    assert!(bomb.len() * MAX_UNPACKED < 1 << 20);
    assert_eq!(opened(&keys, &forged(&keys, &bomb)), Err(DecodeError::OutOfRange.into()));
    // Magic number and tables, of which the second half is gone.
    let damaged = [&plain(&trained)[..6], &[0xff; 600]].concat();
    let keys = with_dictionary(&damaged);
    assert!(keys.dictionary(2).unwrap().packs().is_none());
    assert_eq!(sealed(&keys, &values(1)), sealed(&self::keys(), &values(1)));
    assert_eq!(opened(&keys, &forged(&keys, &bomb)), Err(DecodeError::OutOfRange.into()));
    assert!(Dictionary::new(&[]).is_none() && Dictionary::new(&[0; MAX_DICTIONARY_BYTES + 1]).is_none());
    for (len, fits) in [(MAX_DICTIONARY_BYTES, true), (MAX_DICTIONARY_BYTES + 1, false), (1 << 24, false)] {
        let frame = zstd::bulk::compress(&vec![7; len], 3).unwrap();
        assert_eq!(Dictionary::new(&frame).is_some(), fits, "{len} bytes from {}", frame.len());
        assert!(Dictionary::new(&frame[..frame.len() - 1]).is_none(), "a frame that is cut off");
    }
}

#[test]
fn a_dictionary_says_the_same_compressed_as_it_is() {
    let rule = EncryptionSpec::E2eOnly { routing_fields: vec!["status".to_owned()] };
    let sealer = Sealer::new(keys(), rule);
    let said = samples(&sealer).dictionary(1_000_000).unwrap();
    let plain = plain(&said);
    assert!(said.len() < plain.len());
    let (one, other) = (with_dictionary(&said), with_dictionary(&plain));
    assert_eq!(sealed(&one, &values(1)), sealed(&other, &values(1)));
}

#[test]
fn few_records_make_no_dictionary_and_many_one_that_costs_little_beside_them() {
    let rule = EncryptionSpec::E2eOnly { routing_fields: vec!["status".to_owned()] };
    let sealer = Sealer::new(keys(), rule);
    assert_eq!(Samples::new(&sealer).dictionary(1_000_000), None);
    let samples = samples(&sealer);
    assert_eq!(samples.dictionary(1_000), None);
    let dictionary = samples.dictionary(3_000).unwrap();
    assert!(dictionary.len() <= 3_000 * body(1).len() / RECORDS_A_DICTIONARY);
    // Fields that stay readable are not in it.
    let dictionary = plain(&dictionary);
    assert!(!dictionary.windows(8).any(|bytes| bytes == b"resolved"));
    assert!(dictionary.windows(8).any(|bytes| bytes == b"customer"));
}

/// Both lengths of a content size lose the heads of their frame, and whatever stands behind the forms opens or is refused.
#[test]
fn frames_of_one_block_lose_their_heads() {
    let keys = with_dictionary(&trained());
    let short = values(60_000);
    let long = [&short[..], &values(60_001)[1..], &values(60_002)[1..], &values(60_003)[1..]].concat();
    for (form, plain) in [(2, short), (3, long)] {
        let mut packed = plain.clone();
        Packer::new(&keys).pack(&mut packed);
        assert_eq!(packed[0], form);
        assert_eq!(opened(&keys, &forged(&keys, &packed)), Ok(plain.clone()));
        // The same as a whole frame.
        let mut frame = vec![PACKED_FORM];
        read_block(form, &packed[1..], &mut frame).unwrap();
        assert_eq!(opened(&keys, &forged(&keys, &frame)), Ok(plain));
        for len in 0..packed.len() {
            assert!(opened(&keys, &forged(&keys, &packed[..len])).is_err());
        }
        packed[0] = 4;
        assert!(opened(&keys, &forged(&keys, &packed)).is_err());
    }
    assert_eq!((block_head((1 << 21) - 1), block_head(1 << 21)), (Some([0xfd, 0xff, 0xff]), None));
}

/// The golden vector of `vectors/sealing.json`: what it opens to. How zstd packs may change, what it unpacks not.
#[test]
fn golden_vector() {
    let file: serde_json::Value =
        serde_json::from_str(include_str!("../../../../../vectors/sealing.json")).unwrap();
    let bytes = |name: &str| -> Vec<u8> {
        let text = file["packed"][name].as_str().unwrap();
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    };
    let keys = with_dictionary(&bytes("dictionary"));
    for (form, name) in [(1, "frame"), (2, "short"), (3, "long")] {
        let mut sealed = bytes(&format!("sealed {name}"));
        let mut forms = sealed.clone();
        keys.open(2, &bytes("context"), &mut forms).unwrap();
        assert_eq!(forms[0], form);
        Packer::new(&keys).open(2, &bytes("context"), &mut sealed).unwrap();
        assert_eq!(sealed, bytes(&format!("values {name}")));
    }
}

proptest! {
    #[test]
    fn whatever_stands_behind_the_form_is_refused_or_values(
        form in 1_u8..5, bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let keys = with_dictionary(b"a dictionary without tables, which is as good");
        let forged = forged(&keys, &[&[form], bytes.as_slice()].concat());
        if let Ok(values) = opened(&keys, &forged) {
            prop_assert!(values.len() <= 1 + bytes.len() * MAX_UNPACKED + 1_024);
        }
    }
}
