//! Settings that are one word out of a few.
//!
//! Invariant: parsing a word and printing it are inverse, and an unknown word is an error that lists the valid ones.

use std::fmt;

/// A setting whose values are a fixed list of words.
pub trait Keyword: Copy + 'static {
    /// Every value with its word, in the order in which messages list them.
    const ALL: &'static [(&'static str, Self)];

    /// The words alone.
    #[must_use]
    fn words() -> Vec<&'static str> {
        Self::ALL.iter().map(|(word, _)| *word).collect()
    }
}

/// A word that is none of the valid ones.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownKeyword {
    /// What was given.
    pub found: String,
    /// What would be valid.
    pub valid: Vec<&'static str>,
}

impl fmt::Display for UnknownKeyword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown value {:?}", self.found)?;
        super::suggest::write_advice(f, &self.found, &self.valid)
    }
}

impl std::error::Error for UnknownKeyword {}

macro_rules! keyword {
    (
        $(#[$doc:meta])*
        $vis:vis $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)+ }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        $vis enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// The word that stands for this value in files and messages.
            #[must_use]
            $vis const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl $crate::topology::Keyword for $name {
            const ALL: &'static [(&'static str, Self)] = &[$(($word, Self::$variant),)+];
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::topology::UnknownKeyword;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                use $crate::topology::Keyword as _;
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err($crate::topology::UnknownKeyword { found: text.to_owned(), valid: Self::words() }),
                }
            }
        }
    };
}

pub(super) use keyword;

#[cfg(test)]
mod tests {
    use crate::topology::{Compression, Durability, Keyword, OnRemoval, PatternKind, ServeMode, SyncMode};
    use std::fmt::Display;
    use std::str::FromStr;

    fn round_trips<T: Keyword + FromStr + Display + PartialEq + std::fmt::Debug>() {
        for (word, value) in T::ALL {
            assert_eq!(value.to_string(), *word);
            assert_eq!(T::from_str(word).ok(), Some(*value));
        }
    }

    #[test]
    fn every_word_prints_and_parses_to_the_same_value() {
        round_trips::<SyncMode>();
        round_trips::<ServeMode>();
        round_trips::<PatternKind>();
        round_trips::<Durability>();
        round_trips::<Compression>();
        round_trips::<OnRemoval>();
    }

    #[test]
    fn an_unknown_word_lists_the_valid_ones_and_the_nearest() {
        let message = "read-onyl".parse::<SyncMode>().unwrap_err().to_string();
        assert!(message.contains("did you mean \"read-only\"?"), "{message}");
        assert!(message.contains("bidirectional, read-only, write-only, local-only"), "{message}");
        assert!("".parse::<SyncMode>().is_err());
        assert!("Read-Only".parse::<SyncMode>().is_err());
    }
}
