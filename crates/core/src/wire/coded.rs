//! Messages that find a difference with coded symbols: see `docs/spec/wire.md`, *Reconciliation*.

use super::{read_array, read_bool, read_count, tag};
use crate::blazebinary::DecodeError;
use crate::blazebinary::varint::{Reader, write_varint};
use crate::limits::MAX_CODED_SYMBOLS;

/// The exclusive or of the hashes of some of a set's records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CodedSymbol {
    /// Of the first 8 bytes of their hashes.
    pub sum: u64,
    /// Of a check of each of those.
    pub check: u32,
}

impl CodedSymbol {
    /// Its size in a message, in bytes.
    pub const BYTES: usize = 12;
}

/// What is said while a difference is looked for with coded symbols.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Coded {
    /// Server: the next symbols of its set. None at all: they would not help.
    Symbols(Vec<CodedSymbol>),
    /// Client: these do not suffice, there should be so many in all.
    More(u64),
    /// Client: the difference is found.
    Difference {
        /// First 8 bytes of the hashes of the records that the client lacks.
        wanted: Vec<u64>,
        /// SHA-256 of the hashes of what both have, ascending.
        common: [u8; 32],
    },
    /// Server: whether what both have is the same here.
    Agreed(bool),
}

mod kind {
    pub(super) const SYMBOLS: u8 = 0;
    pub(super) const MORE: u8 = 1;
    pub(super) const DIFFERENCE: u8 = 2;
    pub(super) const AGREED: u8 = 3;
}

impl Coded {
    /// About how much memory it takes, in bytes.
    #[must_use]
    pub const fn size(&self) -> usize {
        match self {
            Self::Symbols(symbols) => symbols.len() * size_of::<CodedSymbol>(),
            Self::Difference { wanted, .. } => wanted.len() * size_of::<u64>(),
            Self::More(_) | Self::Agreed(_) => 0,
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(tag::CODED);
        match self {
            Self::Symbols(symbols) => {
                out.push(kind::SYMBOLS);
                write_varint(symbols.len() as u64, out);
                for symbol in symbols {
                    out.extend_from_slice(&symbol.sum.to_le_bytes());
                    out.extend_from_slice(&symbol.check.to_le_bytes());
                }
            }
            Self::More(upto) => {
                out.push(kind::MORE);
                write_varint(*upto, out);
            }
            Self::Difference { wanted, common } => {
                out.push(kind::DIFFERENCE);
                write_varint(wanted.len() as u64, out);
                wanted.iter().for_each(|hash| out.extend_from_slice(&hash.to_le_bytes()));
                out.extend_from_slice(common);
            }
            Self::Agreed(agreed) => out.extend([kind::AGREED, u8::from(*agreed)]),
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.read_u8()? {
            kind::SYMBOLS => {
                let count = read_count(reader, CodedSymbol::BYTES, MAX_CODED_SYMBOLS)?;
                Ok(Self::Symbols((0..count).map(|_| read_symbol(reader)).collect::<Result<_, _>>()?))
            }
            kind::MORE => Ok(Self::More(reader.read_varint()?)),
            kind::DIFFERENCE => {
                let count = read_count(reader, 8, MAX_CODED_SYMBOLS)?;
                let wanted = (0..count).map(|_| read_array(reader).map(u64::from_le_bytes));
                let wanted = wanted.collect::<Result<_, _>>()?;
                Ok(Self::Difference { wanted, common: read_array(reader)? })
            }
            kind::AGREED => Ok(Self::Agreed(read_bool(reader)?)),
            other => Err(DecodeError::UnknownTag(other)),
        }
    }
}

fn read_symbol(reader: &mut Reader<'_>) -> Result<CodedSymbol, DecodeError> {
    let sum = u64::from_le_bytes(read_array(reader)?);
    Ok(CodedSymbol { sum, check: u32::from_le_bytes(read_array(reader)?) })
}
