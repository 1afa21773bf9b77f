//! The statements of a keyring, as bytes. Grammar: `docs/spec/keyring.md`.

use sha2::{Digest, Sha256};

use super::member::{Member, MemberId, MemberKind, MemberSecret};
use super::{KeyringError, StatementHash};
use crate::blazebinary::DecodeError;
use crate::blazebinary::varint::{Reader, write_prefixed, write_varint};
use crate::limits::{MAX_FIELD_NAMES, MAX_KEYRING_MEMBERS, MAX_STATEMENT_BYTES};
use crate::seal::DatabaseKeyId;
use crate::topology::EncryptionSpec;

const CONTEXT: &[u8] = b"blazedb keyring statement 1";

/// A member says something about the keyring.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Statement {
    /// The statement before; zeros in the first.
    pub parent: StatementHash,
    /// Who says it.
    pub author: MemberId,
    /// When, by the author's clock, in milliseconds since the Unix epoch. For display only.
    pub at_ms: u64,
    /// What.
    pub act: Act,
}

/// What a statement says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Act {
    /// There is a keyring, with one member.
    Create {
        /// Its id, random.
        database: DatabaseKeyId,
        /// The salt of the passphrase, if the first member is one.
        salt: Option<[u8; 16]>,
        /// The first member: the author.
        member: Member,
        /// What is sealed.
        rule: EncryptionSpec,
        /// The first epoch.
        epoch: NewEpoch,
    },
    /// Whoever has a secret (an invitation code, a recovery phrase, a passphrase) is a member.
    Invite {
        /// The member of the secret.
        member: Member,
        /// Proof, to whoever has the secret, that the first statement is the right one.
        root_proof: [u8; 32],
        /// The keys that it gets, or with a new epoch so that it gets no older ones.
        keys: Keys,
    },
    /// The author, who has only such a secret, lets a device in its place (an invitation) or beside it.
    Join {
        /// The device.
        member: Member,
        /// The keys of epochs, wrapped for it.
        wraps: Vec<(u32, Vec<u8>)>,
    },
    /// Members go, and with them the epoch.
    Remove {
        /// Who goes.
        members: Vec<MemberId>,
        /// The new epoch.
        epoch: NewEpoch,
    },
    /// A new epoch begins.
    Rotate(NewEpoch),
    /// Something else is sealed from now on.
    Rule(EncryptionSpec),
    /// What the last rule changed has been sent anew. Whoever can't read drops what it holds in the form before.
    Settled {
        /// Which fields, by [`retired_tag`] of their names as others knew them in the form before.
        retired: Vec<[u8; 16]>,
    },
    /// What values are compressed with before they are sealed in the current epoch. Said once in an epoch.
    Dictionary {
        /// The epoch.
        epoch: u32,
        /// The dictionary, sealed with the epoch's key.
        sealed: Vec<u8>,
    },
}

/// The keys of an invited member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Keys {
    /// Those of the current epoch, wrapped for it.
    Current(Vec<u8>),
    /// A new epoch, wrapped for it and everybody else.
    New(NewEpoch),
}

/// The keys of an epoch, wrapped for every member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewEpoch {
    /// Its number, one more than the last.
    pub number: u32,
    /// Wrapped keys.
    pub wraps: Vec<(MemberId, Vec<u8>)>,
    /// The keys of the epoch before, sealed for whoever may read history.
    pub previous: Vec<u8>,
}

/// Stands for a field name in the statement that follows `parent`: the statement stays, and the name must not.
#[must_use]
pub fn retired_tag(parent: &StatementHash, name: &str) -> [u8; 16] {
    let hash = Sha256::new_with_prefix(b"blazedb retired 1").chain_update(parent).chain_update(name);
    hash.finalize().first_chunk().copied().unwrap_or_default()
}

impl Act {
    /// What it is, in one word.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Invite { .. } => "invite",
            Self::Join { .. } => "join",
            Self::Remove { .. } => "remove",
            Self::Rotate(_) => "rotate",
            Self::Rule(_) => "rule",
            Self::Settled { .. } => "settled",
            Self::Dictionary { .. } => "dictionary",
        }
    }
}

impl Statement {
    /// The statement as bytes, signed.
    ///
    /// # Errors
    /// [`KeyringError::Signature`] if the secret is no key.
    pub fn sign(&self, secret: &MemberSecret) -> Result<Vec<u8>, KeyringError> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.parent);
        out.extend_from_slice(&self.author.0);
        write_varint(self.at_ms, &mut out);
        self.act.write(&mut out);
        let signature = secret.sign(&[CONTEXT, &out].concat())?;
        out.extend_from_slice(&signature);
        Ok(out)
    }

    /// The statement in `bytes`, what was signed, and the signature, which is not checked yet.
    ///
    /// # Errors
    /// [`KeyringError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<(Self, Vec<u8>, [u8; 64]), KeyringError> {
        if bytes.len() > MAX_STATEMENT_BYTES {
            return Err(DecodeError::TooLong { limit: MAX_STATEMENT_BYTES }.into());
        }
        let (signed, signature) = bytes.split_last_chunk::<64>().ok_or(DecodeError::Truncated)?;
        let mut reader = Reader::new(signed);
        let (parent, author) = (reader.read_array()?, MemberId(reader.read_array()?));
        let (at_ms, act) = (reader.read_varint()?, Act::read(&mut reader)?);
        reader.finish()?;
        Ok((Self { parent, author, at_ms, act }, [CONTEXT, signed].concat(), *signature))
    }

    /// Whether these bytes are a first statement, or say so.
    #[must_use]
    pub fn is_first(bytes: &[u8]) -> bool {
        bytes.starts_with(&[0; 32])
    }

    /// The hash of a statement's bytes, the signature included.
    #[must_use]
    pub fn hash(bytes: &[u8]) -> StatementHash {
        Sha256::digest(bytes).into()
    }
}

impl Act {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Create { database, salt, member, rule, epoch } => {
                out.push(1);
                out.extend_from_slice(database);
                write_prefixed(salt.as_ref().map_or(&[], |salt| salt.as_slice()), out);
                write_member(member, out);
                write_rule(rule, out);
                epoch.write(out);
            }
            Self::Invite { member, root_proof, keys } => {
                out.push(2);
                write_member(member, out);
                out.extend_from_slice(root_proof);
                match keys {
                    Keys::Current(wrapped) => {
                        out.push(0);
                        write_prefixed(wrapped, out);
                    }
                    Keys::New(epoch) => {
                        out.push(1);
                        epoch.write(out);
                    }
                }
            }
            Self::Join { member, wraps } => {
                out.push(3);
                write_member(member, out);
                write_varint(wraps.len() as u64, out);
                for (epoch, wrapped) in wraps {
                    write_varint(u64::from(*epoch), out);
                    write_prefixed(wrapped, out);
                }
            }
            Self::Remove { members, epoch } => {
                out.push(4);
                write_varint(members.len() as u64, out);
                members.iter().for_each(|member| out.extend_from_slice(&member.0));
                epoch.write(out);
            }
            Self::Rotate(epoch) => {
                out.push(5);
                epoch.write(out);
            }
            Self::Rule(rule) => {
                out.push(6);
                write_rule(rule, out);
            }
            Self::Settled { retired } => {
                out.push(7);
                write_varint(retired.len() as u64, out);
                retired.iter().for_each(|tag| out.extend_from_slice(tag));
            }
            Self::Dictionary { epoch, sealed } => {
                out.push(8);
                write_varint(u64::from(*epoch), out);
                write_prefixed(sealed, out);
            }
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match reader.read_u8()? {
            1 => {
                let database = reader.read_array()?;
                let salt = match prefixed(reader)? {
                    [] => None,
                    salt => Some(salt.try_into().map_err(|_| DecodeError::OutOfRange)?),
                };
                let (member, rule) = (read_member(reader)?, read_rule(reader)?);
                Self::Create { database, salt, member, rule, epoch: NewEpoch::read(reader)? }
            }
            2 => {
                let (member, root_proof) = (read_member(reader)?, reader.read_array()?);
                let keys = match reader.read_u8()? {
                    0 => Keys::Current(prefixed(reader)?.to_vec()),
                    1 => Keys::New(NewEpoch::read(reader)?),
                    other => return Err(DecodeError::UnknownTag(other)),
                };
                Self::Invite { member, root_proof, keys }
            }
            3 => {
                let member = read_member(reader)?;
                let wraps = 0..count(reader, MAX_KEYRING_MEMBERS)?;
                let wraps = wraps.map(|_| Ok((reader.read_varint_u32()?, prefixed(reader)?.to_vec())));
                Self::Join { member, wraps: wraps.collect::<Result<_, DecodeError>>()? }
            }
            4 => {
                let members = 0..count(reader, MAX_KEYRING_MEMBERS)?;
                let members = members.map(|_| reader.read_array().map(MemberId)).collect::<Result<_, _>>()?;
                Self::Remove { members, epoch: NewEpoch::read(reader)? }
            }
            5 => Self::Rotate(NewEpoch::read(reader)?),
            6 => Self::Rule(read_rule(reader)?),
            7 => {
                let retired = 0..count(reader, MAX_FIELD_NAMES)?;
                Self::Settled { retired: retired.map(|_| reader.read_array()).collect::<Result<_, _>>()? }
            }
            8 => Self::Dictionary { epoch: reader.read_varint_u32()?, sealed: prefixed(reader)?.to_vec() },
            other => return Err(DecodeError::UnknownTag(other)),
        })
    }
}

impl NewEpoch {
    fn write(&self, out: &mut Vec<u8>) {
        write_varint(u64::from(self.number), out);
        write_varint(self.wraps.len() as u64, out);
        for (member, wrapped) in &self.wraps {
            out.extend_from_slice(&member.0);
            write_prefixed(wrapped, out);
        }
        write_prefixed(&self.previous, out);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let number = reader.read_varint_u32()?;
        let wraps = 0..count(reader, MAX_KEYRING_MEMBERS)?;
        let wraps = wraps.map(|_| Ok((MemberId(reader.read_array()?), prefixed(reader)?.to_vec())));
        let wraps = wraps.collect::<Result<_, DecodeError>>()?;
        Ok(Self { number, wraps, previous: prefixed(reader)?.to_vec() })
    }
}

fn write_member(member: &Member, out: &mut Vec<u8>) {
    let kind = MemberKind::ALL.iter().find(|(_, kind)| *kind == member.kind).map_or(0, |(byte, _)| *byte);
    out.extend([kind, u8::from(member.history)]);
    write_prefixed(member.name.as_bytes(), out);
    out.extend_from_slice(&member.sign_key);
    out.extend_from_slice(&member.wrap_key);
}

fn read_member(reader: &mut Reader<'_>) -> Result<Member, DecodeError> {
    let byte = reader.read_u8()?;
    let kind = MemberKind::ALL.iter().find(|(b, _)| *b == byte).map(|(_, kind)| *kind);
    let kind = kind.ok_or(DecodeError::UnknownTag(byte))?;
    let history = match reader.read_u8()? {
        0 => false,
        1 => true,
        other => return Err(DecodeError::UnknownTag(other)),
    };
    let name = text(reader)?;
    Ok(Member { kind, name, sign_key: reader.read_array()?, wrap_key: reader.read_array()?, history })
}

fn write_rule(rule: &EncryptionSpec, out: &mut Vec<u8>) {
    let (kind, fields): (u8, &[String]) = match rule {
        EncryptionSpec::SmartProxy => (0, &[]),
        EncryptionSpec::E2eOnly { routing_fields } => (1, routing_fields),
        EncryptionSpec::Seal(fields) => (2, fields),
    };
    out.push(kind);
    write_texts(fields, out);
}

fn write_texts(texts: &[String], out: &mut Vec<u8>) {
    write_varint(texts.len() as u64, out);
    texts.iter().for_each(|text| write_prefixed(text.as_bytes(), out));
}

fn read_texts(reader: &mut Reader<'_>) -> Result<Vec<String>, DecodeError> {
    (0..count(reader, MAX_FIELD_NAMES)?).map(|_| text(reader)).collect()
}

fn read_rule(reader: &mut Reader<'_>) -> Result<EncryptionSpec, DecodeError> {
    let kind = reader.read_u8()?;
    match (kind, read_texts(reader)?) {
        (0, fields) if fields.is_empty() => Ok(EncryptionSpec::SmartProxy),
        (1, routing_fields) => Ok(EncryptionSpec::E2eOnly { routing_fields }),
        (2, fields) => Ok(EncryptionSpec::Seal(fields)),
        _ => Err(DecodeError::UnknownTag(kind)),
    }
}

fn text(reader: &mut Reader<'_>) -> Result<String, DecodeError> {
    std::str::from_utf8(prefixed(reader)?).map(str::to_owned).map_err(|_| DecodeError::NotUtf8)
}

fn prefixed<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let len = usize::try_from(reader.read_varint()?).unwrap_or(usize::MAX);
    reader.read_bytes(len)
}

fn count(reader: &mut Reader<'_>, limit: usize) -> Result<usize, DecodeError> {
    let count = usize::try_from(reader.read_varint()?).unwrap_or(usize::MAX);
    if count > limit || count > reader.remaining() { Err(DecodeError::OutOfRange) } else { Ok(count) }
}
