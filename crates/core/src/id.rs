//! The names of things that are sixteen bytes long: records, replicas, nodes.
//!
//! All three are UUIDs, and three types, so that one can't be passed for another.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The id of these sixteen bytes, in the order of RFC 9562.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The sixteen bytes, in the order of RFC 9562.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0.as_hyphenated())
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

uuid_id!(
    /// Names a record, everywhere and for ever. Version 7 (time-ordered) unless the application chose it.
    RecordId
);
uuid_id!(
    /// Names one file of a database on one node. Drawn anew when a file is created, restored or copied.
    ReplicaId
);
uuid_id!(
    /// Names a running process; derived from its public key, so nobody else can claim it.
    NodeId
);

impl RecordId {
    /// A version 7 id: `millis` since the Unix epoch, then 74 random bits taken from `random`.
    ///
    /// ```
    /// use blazedb_core::RecordId;
    /// let id = RecordId::v7(1_700_000_000_000, [7; 10]);
    /// assert_eq!(id.0.get_version_num(), 7);
    /// assert!(id < RecordId::v7(1_700_000_000_001, [0; 10]));
    /// ```
    #[must_use]
    pub fn v7(millis: u64, random: [u8; 10]) -> Self {
        Self(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
    }

    /// The milliseconds since the Unix epoch inside a version 7 id; `None` for any other version.
    #[must_use]
    pub fn millis(&self) -> Option<u64> {
        if self.0.get_version_num() != 7 {
            return None;
        }
        let [a, b, c, d, e, f, ..] = *self.as_bytes();
        Some(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }
}
