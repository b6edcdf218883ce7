//! The data directory: its lock, and files in it that are read and written at given places.
//!
//! The one place that touches the file system, so that tests can make a disk fail: a [`Hook`] is asked before whatever
//! may fail on a real one. Directories are made 0700 and files 0600: what people said is in them.

use std::fs::{self, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is about to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Of so many bytes. A hook may let fewer pass.
    Write(usize),
    Sync,
    /// To so many bytes.
    Truncate(u64),
    /// Of a file.
    Remove,
}

/// Decides what the disk does: how many bytes of a write pass, or the error.
pub type Hook = Arc<dyn Fn(Operation) -> io::Result<usize> + Send + Sync>;

/// The data directory, locked for as long as this lives.
pub struct Directory {
    path: PathBuf,
    hook: Option<Hook>,
    _lock: fs::File,
}

pub struct File {
    file: fs::File,
    hook: Option<Hook>,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the data directory {0} is in use by another process")]
    Locked(PathBuf),
    #[error("the data directory {path} cannot be used: {source}")]
    Io { path: PathBuf, source: io::Error },
}

impl Directory {
    /// Locks a directory that must be there already.
    pub fn existing(path: &Path) -> Result<Directory, OpenError> {
        match fs::metadata(path) {
            Ok(_) => Directory::open(path, None),
            Err(source) => Err(OpenError::Io { path: path.to_owned(), source }),
        }
    }

    /// Makes the directory if there is none, and locks it. The lock goes with the process, however that ends.
    pub fn open(path: &Path, hook: Option<Hook>) -> Result<Directory, OpenError> {
        let failed = |source| OpenError::Io { path: path.to_owned(), source };
        make(path).map_err(failed)?;
        let lock = options().truncate(false).open(path.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        for folder in ["journal", "archive"] {
            make(&path.join(folder)).map_err(failed)?;
        }
        Ok(Directory { path: path.to_owned(), hook, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new file, or an old one emptied.
    pub fn create(&self, name: &str) -> io::Result<File> {
        self.wrap(options().truncate(true).open(self.path.join(name)))
    }

    /// A file that exists.
    pub fn file(&self, name: &str) -> io::Result<File> {
        self.wrap(options().create(false).open(self.path.join(name)))
    }

    fn wrap(&self, file: io::Result<fs::File>) -> io::Result<File> {
        file.map(|file| File { file, hook: self.hook.clone() })
    }

    pub fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path.join(name))
    }

    /// No error if it is gone already.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        ask(self.hook.as_ref(), Operation::Remove, 0)?;
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    /// The names in a folder, in order.
    pub fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.path.join(folder))? {
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Makes names that were added to or taken from a folder last through a power loss.
    pub fn sync_names(&self, folder: &str) -> io::Result<()> {
        ask(self.hook.as_ref(), Operation::Sync, 0)?;
        fs::File::open(self.path.join(folder))?.sync_all()
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    options
}

fn make(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn ask(hook: Option<&Hook>, operation: Operation, passes: usize) -> io::Result<usize> {
    hook.map_or(Ok(passes), |hook| hook(operation))
}

impl File {
    /// All of it, or an error after none or some of it.
    pub fn write_at(&self, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            let passes = ask(self.hook.as_ref(), Operation::Write(bytes.len()), bytes.len())?;
            match self.file.write_at(&bytes[..passes.min(bytes.len())], at) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = &bytes[written..];
                    at += written as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, at)
    }

    /// Makes what was written last through a power loss.
    pub fn sync(&self) -> io::Result<()> {
        ask(self.hook.as_ref(), Operation::Sync, 0)?;
        self.file.sync_data()
    }

    pub fn truncate(&self, length: u64) -> io::Result<()> {
        ask(self.hook.as_ref(), Operation::Truncate(length), 0)?;
        self.file.set_len(length)
    }

    pub fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}
