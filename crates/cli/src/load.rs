//! Reading the topology file of a command.

use std::path::Path;

use blazedb_core::topology::{DatabaseName, DatabaseSpec, PasswordRule, TopologySpec};
use blazedb_hub::api::read_topology;

use crate::args::GlobalArgs;
use crate::output::{CliError, ErrorCode};

/// Reads the topology file of a command. Where passwords come from is asked when a database is opened.
///
/// # Errors
/// As [`load_topology`].
pub fn load(global: &GlobalArgs) -> Result<TopologySpec, CliError> {
    load_topology(&global.file, PasswordRule::Optional)
}

/// A database's entry.
///
/// # Errors
/// [`ErrorCode::NotFound`] if the topology file has none.
pub fn entry<'s>(spec: &'s TopologySpec, db: &DatabaseName) -> Result<&'s DatabaseSpec, CliError> {
    spec.databases.get(db).ok_or_else(|| {
        let names: Vec<String> = spec.databases.keys().map(ToString::to_string).collect();
        let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        CliError::new(ErrorCode::NotFound, format!("no database {:?} in the topology file", db.as_str()))
            .with_hint(format!("it has {known}; add [databases.{db}], or name another file with -f"))
    })
}

/// Reads and checks a topology file; `${NAME}` comes from the process's environment.
///
/// # Errors
/// [`ErrorCode::Config`] if the file is missing, can't be read or is wrong; the message begins with the place.
pub fn load_topology(file: &Path, passwords: PasswordRule) -> Result<TopologySpec, CliError> {
    Ok(read_topology(&topology_text(file)?, &file.display().to_string(), passwords)?)
}

/// The text of a topology file.
///
/// # Errors
/// [`ErrorCode::Config`] if it is missing or can't be read.
pub fn topology_text(file: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(file).map_err(|error| {
        CliError::new(ErrorCode::Config, format!("{}: {error}", file.display()))
            .with_hint("`blazedb init` writes a topology file; -f FILE or BLAZEDB_FILE names another one")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_file_is_a_configuration_error_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("t.toml");
        let load = || load_topology(&file, PasswordRule::Required).unwrap_err();
        let missing = load();
        assert_eq!(missing.code, ErrorCode::Config);
        assert!(missing.hint.unwrap().contains("blazedb init"));

        std::fs::write(&file, "[node]\nnam = 'x'\n").unwrap();
        let wrong = load();
        assert_eq!(wrong.code.exit(), 2);
        assert!(wrong.message.contains("t.toml:2:1: unknown key `nam`"), "{}", wrong.message);

        std::fs::write(&file, "[node]\nname = '${BLAZEDB_TEST_UNSET}'\n").unwrap();
        assert_eq!(load().hint.unwrap(), "export BLAZEDB_TEST_UNSET=...");
    }
}
