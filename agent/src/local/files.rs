//! Service definitions in files, and in a variable where there is no file, in Consul's format.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use catalog::NodeName;
use wire::consul::{CheckDefinition, Definitions, ServiceDefinition};
use wire::decode::{Format, from_value};

use super::{Local, LocalError, Origin};

/// The fields of a file that define something; what else stands there are settings, for whoever named the file to judge.
pub const DEFINITION_FIELDS: [&str; 4] = ["service", "services", "check", "checks"];

/// A larger file is no service definition.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Is where definitions stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DefinitionSource {
    /// A file, or a directory of `*.hcl` and `*.json`.
    Path(PathBuf),
    /// A text of the same form as a file's, for containers that have none.
    Text {
        /// What it is called in errors, such as the variable that holds it.
        name: String,
        /// The text, JSON or HCL.
        text: String,
    },
}

impl From<PathBuf> for DefinitionSource {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

/// One thing that a file defines.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// A service.
    Service(Box<ServiceDefinition>),
    /// A check that stands apart from a service's definition.
    Check(Box<CheckDefinition>),
}

/// Reads texts and files, and of directories every `*.hcl` and `*.json` in the order of their names.
///
/// All services come before all checks, so that a check in one file may be of a service in another.
///
/// # Errors
///
/// The first file that cannot be read or understood: an agent that ignored it would leave a service out silently.
pub(crate) fn read(sources: &[DefinitionSource]) -> Result<Vec<(PathBuf, Content)>, LocalError> {
    let (mut services, mut checks) = (Vec::new(), Vec::new());
    for source in sources {
        let found = match source {
            DefinitionSource::Path(path) => {
                let files = files_at(path)?.into_iter();
                files.map(|file| read_file(&file).map(|read| (file, read))).collect::<Result<Vec<_>, _>>()?
            }
            DefinitionSource::Text { name, text } => {
                let name = PathBuf::from(name);
                vec![(name.clone(), understand(&name, Format::of_text(text), text.as_bytes())?)]
            }
        };
        for (file, definitions) in found {
            let of_file = |content| (file.clone(), content);
            services.extend(definitions.services.into_iter().map(|it| of_file(Content::Service(Box::new(it)))));
            checks.extend(definitions.checks.into_iter().map(|it| of_file(Content::Check(Box::new(it)))));
        }
    }
    services.extend(checks);
    Ok(services)
}

/// Reads files like [`read`], and judges together what they define.
///
/// What an agent's record entitles it to and where the agent itself listens is not known here; those are judged when the
/// agent takes the definitions.
///
/// # Errors
///
/// The first file that cannot be read, or defines what no agent would serve beside what was defined before.
pub(crate) fn read_acceptable(sources: &[DefinitionSource]) -> Result<Vec<(PathBuf, Content)>, LocalError> {
    let node: NodeName = "node".parse().expect("it is a node's name");
    let mut all = Local::of_any_service(node);
    let definitions = read(sources)?;
    for (path, content) in &definitions {
        all.take(content.clone(), &Origin::File(path.clone()))
            .map_err(|source| LocalError::Defined { path: path.clone(), source: Box::new(source) })?;
    }
    Ok(definitions)
}

/// Judges what files define without keeping any of it.
///
/// # Errors
///
/// The first file that an agent would not start with.
pub fn check(sources: &[DefinitionSource]) -> Result<(), LocalError> {
    read_acceptable(sources).map(drop)
}

fn files_at(path: &Path) -> Result<Vec<PathBuf>, LocalError> {
    let failed = |source| LocalError::Read { path: path.to_owned(), source };
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if Format::of(&file).is_some() && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(path: &Path) -> Result<Definitions, LocalError> {
    let failed = |source| LocalError::Read { path: path.to_owned(), source };
    let wrong = |reason: String| LocalError::File { path: path.to_owned(), reason };
    let format = Format::of(path).ok_or_else(|| wrong("its name ends neither in `.hcl` nor in `.json`".to_owned()))?;
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        return Err(wrong(format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    understand(path, format, &bytes)
}

/// Takes what a text defines, and leaves settings alone.
fn understand(path: &Path, format: Format, bytes: &[u8]) -> Result<Definitions, LocalError> {
    let wrong = |reason: String| LocalError::File { path: path.to_owned(), reason };
    let mut value = format.read(bytes).map_err(|error| wrong(error.to_string()))?;
    if let Some(document) = value.as_object_mut() {
        document.retain(|name, _| DEFINITION_FIELDS.iter().any(|known| name.eq_ignore_ascii_case(known)));
    }
    from_value(value, "").map_err(|error| wrong(error.to_string()))
}
