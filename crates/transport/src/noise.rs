//! The handshake `Noise_XX_P256_AESGCM_SHA256` and the channel that it yields, without any I/O.
//!
//! One type per awaited message; each step consumes its type, so a wrong order does not compile:
//!
//! ```text
//! initiator:  initiate -> AwaitReply  -> Identified -> SecureChannel
//! responder:  respond  -> AwaitFinal                -> SecureChannel
//! ```
//!
//! Invariants: both ends hashed the same [`Prologue`] (protocol version and both database names), so a channel of
//! one database pair can't be spliced into another. A frame is sealed as transport messages that are all full but
//! the last, **and the last one is never full**: a frame cut at any place, joined to another, repeated or moved does
//! not open. A half that failed once stays failed.
//!
//! Specification: `docs/spec/handshake.md`.

use aws_lc_rs::aead::{Aad, LessSafeKey};
use blazedb_core::limits::{MAX_MESSAGE_BYTES, MAX_NODE_NAME_BYTES};
use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use crate::fingerprint::PublicKey;
use crate::identity::{Identity, printable};
use crate::names::Purpose;
use crate::resolver::{AwsLcResolver, TAG_BYTES, aes_key, nonce};

/// The version of handshake and framing that this build speaks.
pub const VERSION: u8 = 1;
/// Longest Noise message, in bytes (Noise, section 3).
pub const MAX_NOISE_BYTES: usize = 65_535;
/// What fits into one transport message, in bytes.
pub const CHUNK_BYTES: usize = MAX_NOISE_BYTES - TAG_BYTES;
/// Longest message of the handshake, in bytes: the second one is, or the third with a long name.
pub const MAX_HANDSHAKE_BYTES: usize = 65 + 65 + TAG_BYTES + 1 + TAG_BYTES;
// The third message: static key, name.
const _: () = assert!(65 + TAG_BYTES + MAX_NODE_NAME_BYTES + TAG_BYTES <= MAX_HANDSHAKE_BYTES);

const PATTERN: &str = "Noise_XX_P256_AESGCM_SHA256";
const CONTEXT: &[u8] = b"blazedb/1";
const QUESTIONS_CONTEXT: &[u8] = b"blazedb/1/query";
const REHEARSAL_CONTEXT: &[u8] = b"blazedb/1/rehearse";

/// The length of a sealed frame of `length` bytes.
#[must_use]
pub const fn sealed_len(length: usize) -> usize {
    length + (length / CHUNK_BYTES + 1) * TAG_BYTES
}

/// What both ends must agree on before they trust each other's keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prologue(Vec<u8>);

impl Prologue {
    /// The database pair: the name on the initiator's side, then the name on the responder's side.
    #[must_use]
    pub fn new(initiator_database: &str, responder_database: &str) -> Self {
        Self::of(Purpose::Sync, initiator_database, responder_database)
    }

    /// The same for a connection of this purpose: one can't be taken for another.
    #[must_use]
    pub fn of(purpose: Purpose, initiator_database: &str, responder_database: &str) -> Self {
        let context = match purpose {
            Purpose::Sync => CONTEXT,
            Purpose::Questions => QUESTIONS_CONTEXT,
            Purpose::Rehearsal => REHEARSAL_CONTEXT,
        };
        let mut bytes = context.to_vec();
        for name in [initiator_database, responder_database] {
            bytes.extend_from_slice(&(name.len() as u64).to_be_bytes());
            bytes.extend_from_slice(name.as_bytes());
        }
        Self(bytes)
    }
}

/// Why two nodes did not agree on keys.
#[derive(PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer's message can't be one of this handshake.
    #[error("the peer's handshake message is malformed")]
    Malformed,
    /// The peer speaks another version.
    #[error(
        "the peer speaks version {theirs} of the handshake, this node version {VERSION}; update the older one"
    )]
    Version {
        /// The peer's.
        theirs: u8,
    },
    /// The message does not open: somebody changed it, or the peer means other databases.
    #[error("the peer's handshake message does not open: it was altered, or the peer means other databases")]
    NotAuthentic,
    /// This side could not compute its part.
    #[error("this node's part of the handshake failed: {0}")]
    Local(#[source] snow::Error),
}

/// Why a frame was not sealed or opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The frame is longer than a wire message may be.
    #[error("a frame of {bytes} bytes is longer than {MAX_MESSAGE_BYTES}")]
    TooLarge {
        /// Its length (sealed, if it was to be opened).
        bytes: usize,
    },
    /// The frame ends where no frame can end.
    #[error("a frame was cut short on its way")]
    Truncated,
    /// The frame was altered, repeated, moved or left out on its way.
    #[error("a frame does not open: it was altered, repeated or reordered on its way")]
    NotAuthentic,
    /// The channel failed before, or has used up its message numbers.
    #[error("the channel is no longer usable")]
    Exhausted,
}

/// Begins a handshake: the first message, and what waits for the reply.
///
/// # Errors
/// [`HandshakeError::Local`] if the system's random source fails.
pub fn initiate(identity: &Identity, prologue: &Prologue) -> Result<(AwaitReply, Vec<u8>), HandshakeError> {
    let mut state = builder(identity, prologue)?.build_initiator().map_err(HandshakeError::Local)?;
    let first = write(&mut state, &[VERSION])?;
    Ok((AwaitReply { state, name: identity.name().to_owned() }, first))
}

/// Answers a first message: the second message, and what waits for the last.
///
/// # Errors
/// [`HandshakeError::Malformed`] and [`HandshakeError::Version`] for what the peer sent.
pub fn respond(
    identity: &Identity,
    prologue: &Prologue,
    first: &[u8],
) -> Result<(AwaitFinal, Vec<u8>), HandshakeError> {
    let mut state = builder(identity, prologue)?.build_responder().map_err(HandshakeError::Local)?;
    check_version(&read(&mut state, first)?)?;
    let second = write(&mut state, &[VERSION])?;
    Ok((AwaitFinal { state }, second))
}

/// The initiator, waiting for the second message.
#[derive(Debug)]
pub struct AwaitReply {
    state: HandshakeState,
    name: String,
}

impl AwaitReply {
    /// Reads the second message: from here on the peer is proven to hold its key.
    ///
    /// # Errors
    /// [`HandshakeError`] for a message that is malformed, of another version, altered, or of other databases.
    pub fn read(mut self, second: &[u8]) -> Result<Identified, HandshakeError> {
        check_version(&read(&mut self.state, second)?)?;
        let remote = remote_key(&self.state)?;
        Ok(Identified { state: self.state, remote, name: self.name })
    }
}

/// The initiator, which knows who the peer is and has not yet said who itself is.
#[derive(Debug)]
pub struct Identified {
    state: HandshakeState,
    remote: PublicKey,
    name: String,
}

impl Identified {
    /// The peer's proven key. Check it here: an impostor then never learns this node's key.
    #[must_use]
    pub const fn remote(&self) -> &PublicKey {
        &self.remote
    }

    /// The third message, which also says what this node is called, and the channel.
    ///
    /// # Errors
    /// [`HandshakeError::Local`] if the cryptography library fails.
    pub fn finish(mut self) -> Result<(SecureChannel, Vec<u8>), HandshakeError> {
        let last = write(&mut self.state, self.name.as_bytes())?;
        Ok((SecureChannel::split(self.state, true, String::new())?, last))
    }
}

/// The responder, waiting for the third message.
#[derive(Debug)]
pub struct AwaitFinal {
    state: HandshakeState,
}

impl AwaitFinal {
    /// Reads the third message.
    ///
    /// # Errors
    /// [`HandshakeError`] for a message that is malformed or altered.
    pub fn read(mut self, last: &[u8]) -> Result<SecureChannel, HandshakeError> {
        let name = read(&mut self.state, last)?;
        let name = std::str::from_utf8(&name).ok().filter(|name| name.len() <= MAX_NODE_NAME_BYTES);
        let name = printable(name.ok_or(HandshakeError::Malformed)?);
        SecureChannel::split(self.state, false, name)
    }
}

/// What a finished handshake yields. The halves are independent: each may go to a task of its own.
#[derive(Debug)]
pub struct SecureChannel {
    /// The peer's proven key.
    pub remote: PublicKey,
    /// What the peer calls itself; empty if it does not say. Its word only: others may use the same.
    pub remote_name: String,
    /// Names this channel alone; equal at both ends. For binding further proofs to it.
    pub handshake_hash: [u8; 32],
    /// Seals what this side sends.
    pub send: Sealer,
    /// Opens what the other side sent.
    pub recv: Opener,
}

impl SecureChannel {
    fn split(
        mut state: HandshakeState,
        initiator: bool,
        remote_name: String,
    ) -> Result<Self, HandshakeError> {
        if !state.is_handshake_finished() {
            return Err(unfinished());
        }
        let remote = remote_key(&state)?;
        let handshake_hash = state.get_handshake_hash().try_into().map_err(|_| unfinished())?;
        let (outward, inward) = state.dangerously_get_raw_split();
        let (outward, inward) = (Zeroizing::new(outward), Zeroizing::new(inward));
        let (send, recv) = if initiator { (outward, inward) } else { (inward, outward) };
        let send = Sealer { key: aes_key(&send).ok_or_else(unfinished)?, counter: 0, failed: false };
        let recv = Opener { key: aes_key(&recv).ok_or_else(unfinished)?, counter: 0, failed: false };
        Ok(Self { remote, remote_name, handshake_hash, send, recv })
    }
}

/// Seals frames, in order.
#[derive(Debug)]
pub struct Sealer {
    key: LessSafeKey,
    counter: u64,
    failed: bool,
}

impl Sealer {
    /// Appends to `out` the sealed frame whose content is `parts`, one after the other. Each byte is copied once.
    ///
    /// # Errors
    /// [`ChannelError::TooLarge`] leaves the channel as it was; [`ChannelError::Exhausted`] ends it.
    pub fn seal(&mut self, parts: &[&[u8]], out: &mut Vec<u8>) -> Result<(), ChannelError> {
        let bytes = parts.iter().map(|part| part.len()).fold(0, usize::saturating_add);
        if bytes > MAX_MESSAGE_BYTES {
            return Err(ChannelError::TooLarge { bytes });
        }
        if self.failed {
            return Err(ChannelError::Exhausted);
        }
        let before = out.len();
        out.reserve(sealed_len(bytes));
        self.seal_chunks(parts, out).inspect_err(|_| {
            self.failed = true;
            out.truncate(before);
        })
    }

    fn seal_chunks(&mut self, parts: &[&[u8]], out: &mut Vec<u8>) -> Result<(), ChannelError> {
        let mut start = out.len();
        for part in parts {
            let mut part = *part;
            while !part.is_empty() {
                let room = CHUNK_BYTES.saturating_sub(out.len() - start);
                let (now, later) = part.split_at(room.min(part.len()));
                out.extend_from_slice(now);
                part = later;
                if out.len() - start == CHUNK_BYTES {
                    self.seal_tail(out, start)?;
                    start = out.len();
                }
            }
        }
        self.seal_tail(out, start)
    }

    /// Turns `out[start..]` into one transport message.
    fn seal_tail(&mut self, out: &mut Vec<u8>, start: usize) -> Result<(), ChannelError> {
        let counter = take_counter(&mut self.counter)?;
        let chunk = out.get_mut(start..).ok_or(ChannelError::Exhausted)?;
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(counter), Aad::empty(), chunk)
            .map_err(|_| ChannelError::Exhausted)?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }
}

/// Opens frames, in order.
#[derive(Debug)]
pub struct Opener {
    key: LessSafeKey,
    counter: u64,
    failed: bool,
}

impl Opener {
    /// Replaces what is in `out` by the content of one sealed frame.
    ///
    /// # Errors
    /// [`ChannelError`]; after any of them `out` is empty and the channel is over.
    pub fn open(&mut self, sealed: &[u8], out: &mut Vec<u8>) -> Result<(), ChannelError> {
        out.clear();
        if self.failed {
            return Err(ChannelError::Exhausted);
        }
        self.open_chunks(sealed, out).inspect_err(|_| {
            self.failed = true;
            out.fill(0);
            out.clear();
        })
    }

    fn open_chunks(&mut self, sealed: &[u8], out: &mut Vec<u8>) -> Result<(), ChannelError> {
        if sealed.len() > sealed_len(MAX_MESSAGE_BYTES) {
            return Err(ChannelError::TooLarge { bytes: sealed.len() });
        }
        let chunks = sealed.len() / MAX_NOISE_BYTES + 1;
        if sealed.len() % MAX_NOISE_BYTES < TAG_BYTES {
            return Err(ChannelError::Truncated);
        }
        out.resize(sealed.len() - chunks * TAG_BYTES, 0);
        let mut rest = out.as_mut_slice();
        for message in sealed.chunks(MAX_NOISE_BYTES) {
            let length = message.len().saturating_sub(TAG_BYTES);
            let (body, tag) = message.split_at_checked(length).ok_or(ChannelError::Truncated)?;
            let (plain, later) = rest.split_at_mut_checked(length).ok_or(ChannelError::Truncated)?;
            let counter = take_counter(&mut self.counter)?;
            self.key
                .open_separate_gather(nonce(counter), Aad::empty(), body, tag, plain)
                .map_err(|_| ChannelError::NotAuthentic)?;
            rest = later;
        }
        Ok(())
    }
}

/// The number of the next message; the last number of all is reserved (Noise, section 5.1).
fn take_counter(counter: &mut u64) -> Result<u64, ChannelError> {
    let now = *counter;
    *counter = now.checked_add(1).ok_or(ChannelError::Exhausted)?;
    Ok(now)
}

fn builder<'a>(identity: &'a Identity, prologue: &'a Prologue) -> Result<Builder<'a>, HandshakeError> {
    let pattern = PATTERN.parse().map_err(HandshakeError::Local)?;
    Builder::with_resolver(pattern, Box::new(AwsLcResolver))
        .prologue(&prologue.0)
        .and_then(|builder| builder.local_private_key(identity.secret_scalar()))
        .map_err(HandshakeError::Local)
}

fn write(state: &mut HandshakeState, payload: &[u8]) -> Result<Vec<u8>, HandshakeError> {
    let mut message = vec![0; MAX_HANDSHAKE_BYTES];
    let length = state.write_message(payload, &mut message).map_err(|error| match error {
        // This node's scalars are valid, so it is the peer's point that is not.
        snow::Error::Dh => HandshakeError::Malformed,
        other => HandshakeError::Local(other),
    })?;
    message.truncate(length);
    Ok(message)
}

fn read(state: &mut HandshakeState, message: &[u8]) -> Result<Vec<u8>, HandshakeError> {
    if message.len() > MAX_HANDSHAKE_BYTES {
        return Err(HandshakeError::Malformed);
    }
    let mut payload = vec![0; MAX_HANDSHAKE_BYTES];
    let length = state.read_message(message, &mut payload).map_err(|error| match error {
        snow::Error::Decrypt => HandshakeError::NotAuthentic,
        _ => HandshakeError::Malformed,
    })?;
    payload.truncate(length);
    Ok(payload)
}

fn unfinished() -> HandshakeError {
    HandshakeError::Local(snow::Error::State(snow::error::StateProblem::HandshakeNotFinished))
}

fn check_version(payload: &[u8]) -> Result<(), HandshakeError> {
    match *payload {
        [VERSION] => Ok(()),
        [theirs] => Err(HandshakeError::Version { theirs }),
        _ => Err(HandshakeError::Malformed),
    }
}

fn remote_key(state: &HandshakeState) -> Result<PublicKey, HandshakeError> {
    let key = state.get_remote_static().and_then(|key| key.try_into().ok());
    key.map(PublicKey::from_bytes).ok_or(HandshakeError::Malformed)
}

#[cfg(test)]
#[path = "noise_tests.rs"]
mod tests;
