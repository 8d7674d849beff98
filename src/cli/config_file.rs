//! Configuration files: found, read by the one decoder, and told apart from what else stands in them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use agent::DefinitionSource;
use anyhow::Context;
use serde_json::{Map, Value};
use wire::decode::{Fields, Format};

use super::error::hinted;

/// No configuration file is longer.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Holds configuration of the same form as a file, for containers that have no file.
pub(super) const VARIABLE: &str = "WEFT_CONFIG";

/// Is one file, read but not yet understood.
pub(super) struct ConfigFile {
    pub(super) path: PathBuf,
    document: Map<String, Value>,
}

impl ConfigFile {
    /// Reads one file.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let what = || format!("reading `{}`", path.display());
        let format = Format::of(path)
            .ok_or_else(|| hinted("it is neither HCL nor JSON by its name", "name it so that it ends in .hcl or .json"))
            .with_context(what)?;
        let size = fs::metadata(path).with_context(what)?.len();
        anyhow::ensure!(size <= FILE_BYTES_MAX, "`{}` has {size} bytes; use at most {FILE_BYTES_MAX}", path.display());
        let bytes = fs::read(path).with_context(what)?;
        match format.read(&bytes).with_context(what)? {
            Value::Object(document) => Ok(Self { path: path.to_owned(), document }),
            _ => Err(hinted("it is no object", "write `name = value`")).with_context(what),
        }
    }

    /// Reads what stands at `source`, which is one file or a text.
    pub(super) fn of(source: &DefinitionSource) -> anyhow::Result<Self> {
        let (name, text) = match source {
            DefinitionSource::Path(path) => return Self::read(path),
            DefinitionSource::Text { name, text } => (name, text),
        };
        let what = || format!("reading `{name}`");
        match Format::of_text(text).read(text.as_bytes()).with_context(what)? {
            Value::Object(document) => Ok(Self { path: PathBuf::from(name), document }),
            _ => Err(hinted("it is no object", "write `name = value`, or JSON")).with_context(what),
        }
    }

    /// Returns the whole document.
    pub(super) fn into_value(self) -> Value {
        Value::Object(self.document)
    }

    /// Takes the fields with one of these names out, whatever they hold.
    pub(super) fn without(mut self, names: &[&str]) -> Self {
        self.document.retain(|name, _| !names.iter().any(|known| name.eq_ignore_ascii_case(known)));
        self
    }

    /// Reads the fields with `read`; refuses what it leaves over.
    pub(super) fn fields<T>(
        self,
        read: impl FnOnce(&mut Fields) -> Result<T, wire::decode::DecodeError>,
    ) -> anyhow::Result<T> {
        let what = || format!("reading `{}`", self.path.display());
        let mut fields = Fields::new(Value::Object(self.document), "").with_context(what)?;
        let value = read(&mut fields).with_context(what)?;
        fields.finish().with_context(what)?;
        Ok(value)
    }
}

/// Lists what `--config` names and, last, the text of `WEFT_CONFIG`, so that it counts more than a file.
pub(super) fn sources(paths: &[PathBuf]) -> Vec<DefinitionSource> {
    let mut sources: Vec<_> = paths.iter().cloned().map(DefinitionSource::Path).collect();
    if let Ok(text) = std::env::var(VARIABLE)
        && !text.trim().is_empty()
    {
        sources.push(DefinitionSource::Text { name: VARIABLE.to_owned(), text });
    }
    sources
}

/// Puts the files of a directory in its place.
pub(super) fn expand(sources: &[DefinitionSource]) -> anyhow::Result<Vec<DefinitionSource>> {
    let mut found = Vec::new();
    for source in sources {
        match source {
            DefinitionSource::Path(path) => {
                found.extend(find(std::slice::from_ref(path))?.into_iter().map(DefinitionSource::Path));
            }
            text @ DefinitionSource::Text { .. } => found.push(text.clone()),
        }
    }
    Ok(found)
}

/// Lists the files that `--config` names: files as they are, and of a directory those that end in .hcl or .json, by name.
fn find(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        let what = || format!("looking for configuration in `{}`", path.display());
        if !fs::metadata(path).with_context(what)?.is_dir() {
            found.push(path.clone());
            continue;
        }
        let mut within = Vec::new();
        for entry in fs::read_dir(path).with_context(what)? {
            let path = entry.with_context(what)?.path();
            if Format::of(&path).is_some() && path.is_file() {
                within.push(path);
            }
        }
        within.sort();
        found.extend(within);
    }
    Ok(found)
}
