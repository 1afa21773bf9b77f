//! Statements of a keyring, each behind its length in two bytes: what is read is read the same again, and no chain of them
//! makes a keyring panic.
#![no_main]

use blazedb_core::keyring::{Keyring, Statement};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut statements = Vec::new();
    let mut rest = bytes;
    while let Some((length, behind)) = rest.split_first_chunk() {
        let (statement, behind) = behind.split_at(usize::from(u16::from_le_bytes(*length)).min(behind.len()));
        rest = behind;
        let _ = (Statement::decode(statement), Statement::is_first(statement), Statement::hash(statement));
        statements.push(statement);
    }
    let _ = Keyring::of(statements);
});
