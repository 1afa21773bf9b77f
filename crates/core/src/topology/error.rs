//! What can be wrong with a topology specification.

use std::fmt;

use super::address::AddressError;
use super::keyword::UnknownKeyword;
use super::name::DatabaseNameError;
use super::pattern::{PatternKind, SyncMode};
use super::suggest::write_advice;
use super::units::DurationError;
use crate::limits::{MAX_DATABASES, MAX_FIELD_NAME_BYTES, MAX_FILTER_BYTES, MAX_LINKS, MAX_TOPOLOGY_BYTES};

/// An error in a topology file, and where. Prints as `LINE:COLUMN: what is wrong`, so that a file name and a colon
/// before it make a place that editors can jump to.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{line}:{column}: {kind}")]
pub struct SpecError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub kind: SpecErrorKind,
}

/// What is wrong in a topology file.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpecErrorKind {
    /// Not TOML; the reason is the TOML parser's.
    #[error("{0}")]
    Syntax(String),
    /// Over [`MAX_TOPOLOGY_BYTES`].
    #[error("a topology file has at most {MAX_TOPOLOGY_BYTES} bytes")]
    FileTooLong,
    /// Over [`MAX_DATABASES`].
    #[error("a node has at most {MAX_DATABASES} databases")]
    TooManyDatabases,
    /// Over [`MAX_LINKS`].
    #[error("`{0}` has at most {MAX_LINKS} entries")]
    TooManyLinks(String),
    /// A relation to a database that the file does not have.
    #[error("there is no [databases.{0}] for this relation to lead to")]
    RelationToNowhere(String),
    /// A key that its section does not have.
    #[error("unknown key `{key}` in {section}{}", Advice(.key, .valid))]
    UnknownKey {
        /// The key.
        key: String,
        /// The section, as it is written.
        section: String,
        /// The section's keys.
        valid: &'static [&'static str],
    },
    /// A value of another type.
    #[error("`{key}` is {expected}, not {found}")]
    WrongType {
        /// The key.
        key: String,
        /// With its article.
        expected: &'static str,
        /// The TOML type that was found.
        found: &'static str,
    },
    /// A key that its section must have.
    #[error("{section} needs `{key}`")]
    Missing {
        /// The section, as it is written.
        section: String,
        /// The key, or the keys of which one is needed.
        key: &'static str,
    },
    /// A value of the right type that does not do.
    #[error("`{key}`: {error}")]
    Value {
        /// The key.
        key: String,
        /// What is wrong with it.
        error: ValueError,
    },
    /// `${NAME}` names a variable that the environment lacks.
    #[error("the environment variable {0} is not set (a literal \"${{\" is written \"$${{\")")]
    EnvMissing(String),
    /// `${` without a name and `}`.
    #[error("\"${{\" begins a variable like ${{NAME}} (a literal \"${{\" is written \"$${{\")")]
    EnvForm,
    /// A filter or access rule that does not parse.
    #[error("`{key}`: {message}")]
    Filter {
        /// The key.
        key: String,
        /// The filter parser's message.
        message: String,
    },
    /// A key that belongs to another pattern than the chosen one.
    #[error("{}", misplaced(.key, *.owner, *.chosen))]
    KeyOfOtherPattern {
        /// The key.
        key: &'static str,
        /// The pattern that has it.
        owner: PatternKind,
        /// The chosen pattern; `None` if the file chooses none.
        chosen: Option<PatternKind>,
    },
    /// A key about links, where there are none.
    #[error("`{key}` is about links that this node opens{}", no_links(*.pattern))]
    KeyWithoutLink {
        /// The key.
        key: &'static str,
        /// The pattern, which opens none.
        pattern: PatternKind,
    },
    /// A policy, where there are no links.
    #[error(
        "this policy has no link to hold for: set `pattern`; what nodes that connect here may see is set in \
         [databases.{0}.access]"
    )]
    PolicyWithoutLink(String),
    /// A pattern that lacks an address.
    #[error("pattern \"{pattern}\" needs `{key}`{}", role_advice(*.pattern))]
    PatternNeeds {
        /// The pattern.
        pattern: PatternKind,
        /// The key.
        key: &'static str,
    },
    /// A star's parent with the address of a parent.
    #[error("role \"parent\" has no `parent`: leave it out, or set role = \"child\"")]
    ParentOfParent,
    /// A star's parent that nobody can connect to.
    #[error("a star's parent must be served: set `serve` (such as \"bidirectional\")")]
    ParentNotServed,
    /// A resolver that nobody's writes come to.
    #[error(
        "a resolver decides about what nodes that connect write: set `serve` (such as \"bidirectional\")"
    )]
    ResolverNotServed,
    /// A mesh that can't meet anyone.
    #[error("this mesh has no `peers`, does not `discover` them and is not served to any: set one of them")]
    MeshAlone,
    /// What the pattern rules out.
    #[error("{0}")]
    Contradiction(#[from] Contradiction),
    /// `anonymous` where other machines can connect.
    #[error(
        "`anonymous` lets everyone in who reaches {0}: listen on a loopback address, or set insecure = true if \
         that is meant"
    )]
    AnonymousExposed(String),
    /// The HTTP API where other machines can reach it, without a token.
    #[error("`admin` on {0} is reached by other machines: set `admin_token_file`, or use a loopback address")]
    AdminExposed(String),
    /// `serve` on a node that does not listen.
    #[error("`serve` needs `listen` in [node]: nobody can connect to this node")]
    ServeWithoutListen,
    /// Two keys that can't both hold.
    #[error("`{second}` and `{first}` exclude each other: keep one")]
    Exclusive {
        /// One of them.
        first: &'static str,
        /// The other one.
        second: &'static str,
    },
    /// No password source.
    #[error(
        "database {0} has no password: set `password_env` or `password_file`, or `plaintext = true` to leave its \
         file unencrypted"
    )]
    NoPassword(String),
    /// Two databases in one file.
    #[error(
        "databases {first} and {second} have the same file {file:?} (upper and lower case are the same on some \
         systems): set another `file`"
    )]
    SameFile {
        /// One of them.
        first: String,
        /// The other one.
        second: String,
        /// The second one's file.
        file: String,
    },
    /// `routing_fields` without `e2e-only`.
    #[error("`routing_fields` are for encryption = \"e2e-only\": set it, or remove them")]
    RoutingWithoutE2e,
    /// Rules beside `public`.
    #[error("`public` opens everything, so the rule `{0}` would do nothing: remove one of them")]
    RuleBesidePublic(&'static str),
}

/// Why a value does not do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// None of the valid words.
    #[error("{0}")]
    Keyword(#[from] UnknownKeyword),
    /// Not an address.
    #[error("{0}")]
    Address(#[from] AddressError),
    /// Not a length of time.
    #[error("{0}")]
    Duration(#[from] DurationError),
    /// Not a database's name.
    #[error("{0}")]
    DatabaseName(#[from] DatabaseNameError),
    /// Empty.
    #[error("can't be empty")]
    Empty,
    /// Holds a control character.
    #[error("can't hold control characters")]
    Control,
    /// Longer than [`MAX_FIELD_NAME_BYTES`].
    #[error("a field's name has at most {MAX_FIELD_NAME_BYTES} bytes")]
    FieldTooLong,
    /// Longer than [`MAX_FILTER_BYTES`].
    #[error("a filter has at most {MAX_FILTER_BYTES} bytes")]
    FilterTooLong,
    /// A field that is named twice.
    #[error("{0:?} is there twice")]
    Twice(String),
    /// A file outside the data directory.
    #[error("{0:?} leaves the node's data directory: give a path inside it")]
    Escapes(String),
    /// A length of time that must be positive.
    #[error("must be more than zero")]
    Zero,
    /// A number that is too high or too low.
    #[error("must be from {} to {}", i8::MIN, i8::MAX)]
    OutOfRange,
}

/// What a pattern's promise rules out, wherever the specification comes from.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Contradiction {
    /// A mode that the pattern excludes.
    #[error("pattern \"{pattern}\" has mode \"{}\", not \"{mode}\"", .pattern.default_mode())]
    Mode {
        /// The pattern.
        pattern: PatternKind,
        /// The mode.
        mode: SyncMode,
    },
    /// `release_after_ack` on a link that pulls.
    #[error(
        "`release_after_ack` is for mode \"write-only\", not \"{mode}\": what is released would come back"
    )]
    ReleaseOfReader {
        /// The mode.
        mode: SyncMode,
    },
    /// Nobody to connect to.
    #[error("pattern \"hierarchical\" needs `master`, `edges` or both")]
    NoAddress,
    /// An empty list of fields to seal.
    #[error("`seal` names no field: use encryption = \"smart-proxy\" to seal nothing")]
    NothingSealed,
    /// One pinned key for several nodes.
    #[error(
        "`remote_key` fits one node, and pattern \"{pattern}\" reaches several: use one [[links]] for each"
    )]
    OneKeyForMany {
        /// The pattern.
        pattern: PatternKind,
    },
    /// Two links that would be the same one.
    #[error("the link {name} is there twice")]
    SameLink {
        /// Its name.
        name: String,
    },
    /// A further link without a remote.
    #[error("[[links]] are links that this node opens, and this pattern opens none")]
    LinkToNowhere,
}

/// What is wrong with a filter's text.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("column {column}: {message}")]
pub struct FilterTextError {
    /// Column in the filter's text, in characters from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

struct Advice<'a>(&'a str, &'a [&'a str]);

impl fmt::Display for Advice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_advice(f, self.0, self.1)
    }
}

fn misplaced(key: &str, owner: PatternKind, chosen: Option<PatternKind>) -> String {
    match chosen {
        None => format!("`{key}` needs its pattern: add pattern = \"{owner}\""),
        Some(chosen) => format!("`{key}` belongs to pattern \"{owner}\", not to \"{chosen}\""),
    }
}

const fn no_links(pattern: PatternKind) -> &'static str {
    match pattern {
        PatternKind::Star => ", and a star's parent opens none: `serve` says what its children may do",
        _ => ", and pattern \"local-only\" (the default) has none: set `pattern`",
    }
}

/// The node at the other end of these patterns needs no pattern at all, and is the one most often given one.
const fn role_advice(pattern: PatternKind) -> &'static str {
    match pattern {
        PatternKind::Broadcast => " (the source itself has no pattern, but serve = \"broadcast\")",
        PatternKind::Aggregation => " (the sink itself has no pattern, but serve = \"aggregate\")",
        PatternKind::HubAndSpoke => " (the hub itself has no pattern, but serve = \"bidirectional\")",
        PatternKind::Chain => " (the first node of a chain has no pattern, but serve = \"bidirectional\")",
        PatternKind::Star => " (the parent itself has role = \"parent\" instead)",
        _ => "",
    }
}
