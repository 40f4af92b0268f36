//! The folder of private endpoints: where it is, and the proof that nobody else can touch what is
//! in it.

use std::path::{Path, PathBuf};

use callgate_points::at;
use rustix::fs::{AtFlags, CWD, FileType, Mode, mkdirat, statat};
use rustix::io::{Errno, retry_on_intr};

use crate::endpoint::DirError;
use crate::process::uid;

/// Gives the folder of this user's private endpoints; makes it if there is none.
///
/// It is `$XDG_RUNTIME_DIR/callgate`, if that variable is set, absolute, and names a folder of ours
/// that others can't write to; else `/run/user/UID/callgate`, if the same is true of
/// `/run/user/UID`; else `/tmp/callgate-UID`. It is proven to be a real folder, ours, and closed to
/// everyone else. Reads the environment.
///
/// # Errors
///
/// [`DirError`] names the path and what is wrong with it.
pub fn private_dir() -> Result<PathBuf, DirError> {
    Places::of_this_process().private_dir(true)
}

/// Gives the same path as [`private_dir`], for a client: checked if it exists, but not made.
///
/// If there is no such folder the path is given all the same: to connect to a socket in it then
/// fails with [`NotRunning`](super::super::ConnectError::NotRunning), which names the path.
///
/// # Errors
///
/// As [`private_dir`].
pub fn private_dir_if_exists() -> Result<PathBuf, DirError> {
    Places::of_this_process().private_dir(false)
}

/// Where to look, as parameters: tests have places of their own.
struct Places {
    xdg_runtime_dir: Option<PathBuf>,
    run_user: PathBuf,
    tmp: PathBuf,
    uid: u32,
}

impl Places {
    fn of_this_process() -> Places {
        Places {
            xdg_runtime_dir: std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
            run_user: PathBuf::from("/run/user"),
            tmp: PathBuf::from("/tmp"),
            uid: uid(),
        }
    }

    fn private_dir(&self, create: bool) -> Result<PathBuf, DirError> {
        let path = self.path()?;
        if create {
            match at!("sys.endpoint.mkdir", mkdirat(CWD, &path, Mode::RWXU)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(failed("mkdir", &path, error)),
            }
        }
        match self.verify(&path) {
            Err(DirError::Os { source, .. })
                if !create && source.kind() == std::io::ErrorKind::NotFound => {}
            result => result?,
        }
        Ok(path)
    }

    fn path(&self) -> Result<PathBuf, DirError> {
        if let Some(base) = self.xdg_runtime_dir.as_deref().filter(|base| base.is_absolute())
            && self.is_safe_base(base)?
        {
            return Ok(base.join("callgate"));
        }
        let base = self.run_user.join(self.uid.to_string());
        if self.is_safe_base(&base)? {
            return Ok(base.join("callgate"));
        }
        Ok(self.tmp.join(format!("callgate-{}", self.uid)))
    }

    /// A folder of ours that others can't write to. An error where that can't be told: another
    /// process may be able to, and would take another place.
    fn is_safe_base(&self, base: &Path) -> Result<bool, DirError> {
        use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
        use std::os::unix::fs::MetadataExt;
        match std::fs::metadata(base) {
            Ok(meta) => Ok(meta.is_dir() && meta.uid() == self.uid && meta.mode() & 0o022 == 0),
            Err(error) if matches!(error.kind(), NotFound | NotADirectory | PermissionDenied) => {
                Ok(false)
            }
            Err(source) => Err(DirError::Os { call: "stat", path: base.to_owned(), source }),
        }
    }

    /// The proof. In `/tmp` anybody may have made the name first, so no link is followed. What is ours
    /// there nobody else can rename or replace: its folder is sticky.
    fn verify(&self, path: &Path) -> Result<(), DirError> {
        let looked = at!(
            "sys.endpoint.stat_private",
            retry_on_intr(|| statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW))
        );
        let stat = looked.map_err(|error| match error {
            Errno::NOTDIR | Errno::LOOP => DirError::NotADirectory { path: path.to_owned() },
            error => failed("stat", path, error),
        })?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(DirError::NotADirectory { path: path.to_owned() });
        }
        let mode = stat.st_mode as u32 & 0o7777;
        if stat.st_uid != self.uid {
            return Err(DirError::WrongOwner {
                path: path.to_owned(),
                owner: stat.st_uid,
                uid: self.uid,
            });
        }
        if mode & 0o077 != 0 {
            return Err(DirError::OpenToOthers { path: path.to_owned(), mode });
        }
        Ok(())
    }
}

fn failed(call: &'static str, path: &Path, error: Errno) -> DirError {
    DirError::Os { call, path: path.to_owned(), source: error.into() }
}

#[cfg(test)]
mod tests {
    use std::fs::{DirBuilder, Permissions, create_dir, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Places below a folder of their own, none of which exists but `tmp`.
    fn places() -> (tempfile::TempDir, Places) {
        let root = tempfile::tempdir().unwrap();
        let tmp = root.path().join("tmp");
        create_dir(&tmp).unwrap();
        let places = Places {
            xdg_runtime_dir: Some(root.path().join("xdg")),
            run_user: root.path().join("run"),
            tmp,
            uid: uid(),
        };
        (root, places)
    }

    fn make(path: &Path, mode: u32) {
        DirBuilder::new().recursive(true).create(path).unwrap();
        set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_first_safe_place_is_taken() {
        let (root, mut places) = places();
        let in_tmp = root.path().join("tmp").join(format!("callgate-{}", uid()));
        assert_eq!(places.private_dir(false).unwrap(), in_tmp);
        assert!(!in_tmp.exists());
        assert_eq!(places.private_dir(true).unwrap(), in_tmp);
        assert_eq!(in_tmp.metadata().unwrap().permissions().mode() & 0o7777, 0o700);
        let run = root.path().join("run").join(uid().to_string());
        make(&run, 0o700);
        assert_eq!(places.private_dir(true).unwrap(), run.join("callgate"));
        let xdg = root.path().join("xdg");
        make(&xdg, 0o777);
        assert_eq!(
            places.private_dir(true).unwrap(),
            run.join("callgate"),
            "others can write to the first"
        );
        make(&xdg, 0o755);
        assert_eq!(places.private_dir(true).unwrap(), xdg.join("callgate"));
        assert_eq!(places.private_dir(false).unwrap(), xdg.join("callgate"));
        places.xdg_runtime_dir = Some("relative".into());
        assert_eq!(places.private_dir(false).unwrap(), run.join("callgate"));
    }

    #[test]
    fn an_unsafe_folder_is_refused() {
        let (root, mut places) = places();
        let path = root.path().join("tmp").join(format!("callgate-{}", uid()));
        let elsewhere = root.path().join("elsewhere");
        make(&elsewhere, 0o700);
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        for create in [true, false] {
            let refused = places.private_dir(create);
            assert!(matches!(refused, Err(DirError::NotADirectory { path: it }) if it == path));
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        assert!(matches!(places.private_dir(true), Err(DirError::NotADirectory { .. })));
        std::fs::remove_file(&path).unwrap();
        make(&path, 0o710);
        assert!(matches!(
            places.private_dir(true),
            Err(DirError::OpenToOthers { mode: 0o710, .. })
        ));
        make(&path, 0o700);
        assert!(places.private_dir(true).is_ok());
        places.uid += 1;
        let theirs = root.path().join("tmp").join(format!("callgate-{}", places.uid));
        make(&theirs, 0o700);
        let refused = places.private_dir(true);
        assert!(matches!(refused, Err(DirError::WrongOwner { owner, .. }) if owner == uid()));
    }
}
