//! Handshake and channel: what opens, and all that must not.

use proptest::prelude::*;
use snow::resolvers::{CryptoResolver, DefaultResolver};

use super::*;

fn channel() -> (SecureChannel, SecureChannel) {
    let (left, right) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let prologue = Prologue::new("bugs", "bugs");
    let (reply, first) = initiate(&left, &prologue).unwrap();
    let (last, second) = respond(&right, &prologue, &first).unwrap();
    let identified = reply.read(&second).unwrap();
    assert_eq!(identified.remote().as_bytes(), right.public_key());
    let (initiator, third) = identified.finish().unwrap();
    let responder = last.read(&third).unwrap();
    assert_eq!(responder.remote.as_bytes(), left.public_key());
    assert_eq!(initiator.handshake_hash, responder.handshake_hash);
    (initiator, responder)
}

/// What a responder gets to know of an initiator that calls itself `name`.
fn told(name: &str) -> String {
    let left = Identity::generate().unwrap().named(name);
    let (right, prologue) = (Identity::generate().unwrap(), Prologue::new("bugs", "bugs"));
    let (reply, first) = initiate(&left, &prologue).unwrap();
    let (last, second) = respond(&right, &prologue, &first).unwrap();
    let (_, third) = reply.read(&second).unwrap().finish().unwrap();
    last.read(&third).unwrap().remote_name
}

#[test]
fn an_initiator_says_what_it_is_called_in_few_printable_characters() {
    assert_eq!(told(""), "");
    assert_eq!(told("alice's phone <b>é</b>"), "alice's phone <b>é</b>");
    assert_eq!(told("a\u{1b}[31m\nb\u{202e}c"), "a[31mbc");
    assert_eq!(told(&"é".repeat(MAX_NODE_NAME_BYTES)), "é".repeat(MAX_NODE_NAME_BYTES / 2));
}

#[test]
fn a_name_that_is_no_text_or_too_long_ends_the_handshake() {
    for name in [&[0xff; 3][..], &[b'a'; MAX_NODE_NAME_BYTES + 1]] {
        let (left, right) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let prologue = Prologue::new("bugs", "bugs");
        let (reply, first) = initiate(&left, &prologue).unwrap();
        let (last, second) = respond(&right, &prologue, &first).unwrap();
        let mut identified = reply.read(&second).unwrap();
        let mut third = vec![0; 300];
        let length = identified.state.write_message(name, &mut third).unwrap();
        assert!(matches!(last.read(&third[..length]), Err(HandshakeError::Malformed)));
    }
}

fn seal(sealer: &mut Sealer, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    sealer.seal(&[content], &mut out).unwrap();
    assert_eq!(out.len(), sealed_len(content.len()));
    out
}

fn open(opener: &mut Opener, sealed: &[u8]) -> Result<Vec<u8>, ChannelError> {
    let mut out = b"left over".to_vec();
    let opened = opener.open(sealed, &mut out);
    if opened.is_err() {
        assert!(out.is_empty(), "unproven bytes were handed out");
    }
    opened.map(|()| out)
}

fn counting(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8).collect()
}

#[test]
fn frames_of_every_shape_round_trip_both_ways() {
    let (mut left, mut right) = channel();
    for length in [
        0,
        1,
        100,
        CHUNK_BYTES - 1,
        CHUNK_BYTES,
        CHUNK_BYTES + 1,
        2 * CHUNK_BYTES,
        5 << 20,
        MAX_MESSAGE_BYTES,
    ] {
        let content = counting(length);
        assert_eq!(open(&mut right.recv, &seal(&mut left.send, &content)).unwrap(), content);
        assert_eq!(open(&mut left.recv, &seal(&mut right.send, &content)).unwrap(), content);
    }
}

#[test]
fn parts_are_one_frame_appended_to_what_is_there() {
    let (mut left, mut right) = channel();
    let body = counting(CHUNK_BYTES + 7);
    let mut out = b"before".to_vec();
    left.send.seal(&[b"head", b"", &body], &mut out).unwrap();
    let sealed = out.strip_prefix(b"before").unwrap();
    assert_eq!(open(&mut right.recv, sealed).unwrap(), [b"head", body.as_slice()].concat());
}

#[test]
fn too_large_is_refused_before_anything_is_sealed() {
    let (mut left, mut right) = channel();
    let content = vec![0; MAX_MESSAGE_BYTES];
    let mut out = Vec::new();
    let bytes = MAX_MESSAGE_BYTES + 1;
    assert_eq!(left.send.seal(&[&content, b"x"], &mut out), Err(ChannelError::TooLarge { bytes }));
    assert!(out.is_empty());
    assert_eq!(open(&mut right.recv, &seal(&mut left.send, b"still fine")).unwrap(), b"still fine");
    let bytes = sealed_len(MAX_MESSAGE_BYTES) + 1;
    assert_eq!(open(&mut right.recv, &vec![0; bytes]), Err(ChannelError::TooLarge { bytes }));
}

#[test]
fn every_altered_byte_is_found() {
    let content = counting(40);
    for index in 0..sealed_len(40) {
        let (mut left, mut right) = channel_cached();
        let mut sealed = seal(&mut left, &content);
        sealed[index] ^= 1;
        assert_eq!(open(&mut right, &sealed), Err(ChannelError::NotAuthentic), "byte {index}");
    }
}

/// A sealer and an opener under a fixed key: cheaper than a handshake where only the framing is tested.
fn channel_cached() -> (Sealer, Opener) {
    let key = || aes_key(&[9; 32]).unwrap();
    (Sealer { key: key(), counter: 0, failed: false }, Opener { key: key(), counter: 0, failed: false })
}

#[test]
fn a_failed_half_stays_failed() {
    let (mut sealer, mut opener) = channel_cached();
    let good = seal(&mut sealer, b"good");
    let mut bad = good.clone();
    bad[0] ^= 1;
    assert_eq!(open(&mut opener, &bad), Err(ChannelError::NotAuthentic));
    assert_eq!(open(&mut opener, &good), Err(ChannelError::Exhausted));
}

#[test]
fn replayed_swapped_and_skipped_frames_fail() {
    let sealed: Vec<_> = {
        let (mut sealer, _) = channel_cached();
        (0..3u8).map(|index| seal(&mut sealer, &[index])).collect()
    };
    for order in [vec![0, 0], vec![1], vec![0, 2], vec![0, 1, 0]] {
        let (_, mut opener) = channel_cached();
        let (last, before) = order.split_last().unwrap();
        for &index in before {
            open(&mut opener, &sealed[index]).unwrap();
        }
        assert_eq!(open(&mut opener, &sealed[*last]), Err(ChannelError::NotAuthentic), "{order:?}");
    }
}

#[test]
fn a_frame_cut_anywhere_fails_also_between_chunks() {
    for length in [CHUNK_BYTES, CHUNK_BYTES + 10, 2 * CHUNK_BYTES] {
        let content = counting(length);
        let whole = sealed_len(length);
        for cut in [
            0,
            1,
            TAG_BYTES,
            MAX_NOISE_BYTES - 1,
            MAX_NOISE_BYTES,
            MAX_NOISE_BYTES + 15,
            whole - TAG_BYTES,
            whole - 1,
        ] {
            let (mut sealer, mut opener) = channel_cached();
            let sealed = seal(&mut sealer, &content);
            if cut < sealed.len() {
                assert!(open(&mut opener, &sealed[..cut]).is_err(), "{length} cut at {cut}");
            }
        }
    }
}

#[test]
fn two_frames_joined_to_one_fail() {
    let (mut sealer, mut opener) = channel_cached();
    let joined = [seal(&mut sealer, b"first"), seal(&mut sealer, b"second")].concat();
    assert_eq!(open(&mut opener, &joined), Err(ChannelError::NotAuthentic));
}

#[test]
fn the_reserved_last_number_is_never_used() {
    let (mut sealer, mut opener) = channel_cached();
    sealer.counter = u64::MAX;
    opener.counter = u64::MAX;
    let mut out = b"kept".to_vec();
    assert_eq!(sealer.seal(&[b"x"], &mut out), Err(ChannelError::Exhausted));
    assert_eq!(out, b"kept");
    assert_eq!(open(&mut opener, &[0; 20]), Err(ChannelError::Exhausted));
}

#[test]
fn directions_have_different_keys() {
    let (mut left, _) = channel();
    let sealed = seal(&mut left.send, b"mirror");
    assert_eq!(open(&mut left.recv, &sealed), Err(ChannelError::NotAuthentic));
}

#[test]
fn other_databases_mean_no_channel() {
    let (left, right) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let pairs = [("bugs", "users"), ("users", "bugs"), ("bug", "sbugs"), ("bugs", "bugs ")];
    for (initiator, responder) in pairs {
        let (reply, first) = initiate(&left, &Prologue::new("bugs", "bugs")).unwrap();
        let (_, second) = respond(&right, &Prologue::new(initiator, responder), &first).unwrap();
        assert_eq!(reply.read(&second).unwrap_err(), HandshakeError::NotAuthentic);
    }
}

#[test]
fn a_later_version_is_named() {
    let right = Identity::generate().unwrap();
    let prologue = Prologue::new("bugs", "bugs");
    let mut state = builder(&right, &prologue).unwrap().build_initiator().unwrap();
    let first = write(&mut state, &[2]).unwrap();
    assert_eq!(respond(&right, &prologue, &first).unwrap_err(), HandshakeError::Version { theirs: 2 });
}

#[test]
fn every_altered_byte_of_the_handshake_is_found() {
    let (left, right) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let prologue = Prologue::new("a", "b");
    for index in (0..163).step_by(7) {
        let (reply, first) = initiate(&left, &prologue).unwrap();
        let (_, mut second) = respond(&right, &prologue, &first).unwrap();
        assert_eq!((first.len(), second.len()), (66, MAX_HANDSHAKE_BYTES));
        second[index] ^= 1;
        assert!(reply.read(&second).is_err(), "byte {index} of the second message");
    }
    for index in (0..97).step_by(7) {
        let (reply, first) = initiate(&left, &prologue).unwrap();
        let (last, second) = respond(&right, &prologue, &first).unwrap();
        let (_, mut third) = reply.read(&second).unwrap().finish().unwrap();
        assert_eq!(third.len(), 97);
        third[index] ^= 1;
        assert!(last.read(&third).is_err(), "byte {index} of the third message");
    }
}

#[test]
fn points_in_another_form_or_off_the_curve_are_refused() {
    let right = Identity::generate().unwrap();
    let prologue = Prologue::new("a", "b");
    for head in [0u8, 2, 3, 4, 5] {
        let mut first = vec![head; 66];
        first[65] = VERSION;
        assert_eq!(respond(&right, &prologue, &first).unwrap_err(), HandshakeError::Malformed);
    }
}

/// The library's own primitives at one end, ours at the other.
#[test]
fn agrees_with_the_librarys_default_primitives() {
    let (ours, theirs) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let prologue = Prologue::new("bugs", "hub bugs");
    let build = |ours_initiates: bool| {
        let default: Box<dyn CryptoResolver + Send> = Box::new(DefaultResolver);
        let other = Builder::with_resolver(PATTERN.parse().unwrap(), default)
            .prologue(&prologue.0)
            .unwrap()
            .local_private_key(theirs.secret_scalar())
            .unwrap();
        if ours_initiates { other.build_responder().unwrap() } else { other.build_initiator().unwrap() }
    };
    let mut other = build(true);
    let (reply, first) = initiate(&ours, &prologue).unwrap();
    read(&mut other, &first).unwrap();
    let second = write(&mut other, &[VERSION]).unwrap();
    let (mut channel, third) = reply.read(&second).unwrap().finish().unwrap();
    read(&mut other, &third).unwrap();
    exchange(&mut channel, other);

    let mut other = build(false);
    let first = write(&mut other, &[VERSION]).unwrap();
    let (last, second) = respond(&ours, &prologue, &first).unwrap();
    read(&mut other, &second).unwrap();
    let third = write(&mut other, &[]).unwrap();
    exchange(&mut last.read(&third).unwrap(), other);
}

fn exchange(channel: &mut SecureChannel, other: HandshakeState) {
    let mut other = other.into_transport_mode().unwrap();
    let (mut plain, mut sealed) = (vec![0; 100], vec![0; 100]);
    for round in 0..3u8 {
        let frame = seal(&mut channel.send, &[round; 50]);
        let length = other.read_message(&frame, &mut plain).unwrap();
        assert_eq!(plain[..length], [round; 50]);
        let length = other.write_message(&[round; 60], &mut sealed).unwrap();
        assert_eq!(open(&mut channel.recv, &sealed[..length]).unwrap(), [round; 60]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_parts_round_trip(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40_000), 0..6)) {
        let (mut sealer, mut opener) = channel_cached();
        let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let mut sealed = Vec::new();
        sealer.seal(&slices, &mut sealed).unwrap();
        prop_assert_eq!(open(&mut opener, &sealed).unwrap(), parts.concat());
    }

    #[test]
    fn garbage_never_opens(garbage in proptest::collection::vec(any::<u8>(), 0..300)) {
        let (_, mut opener) = channel_cached();
        prop_assert!(open(&mut opener, &garbage).is_err());
        let right = Identity::generate().unwrap();
        prop_assert!(respond(&right, &Prologue::new("a", "b"), &garbage).is_err());
    }
}
