//! Names of the objects of one endpoint. Knows their rules, not the objects.

/// A named object of the classic protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    /// The file mapping that holds the struct.
    Memory,
    /// The event that says: a request is in the memory.
    Exec,
    /// The event that says: the answer is in the memory.
    Done,
    /// The mutex that one client at a time owns.
    Free,
    /// The mutex that a server of this library owns while it serves. Other programs do not know it.
    Owner,
}

impl std::fmt::Display for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Exec => "event Exec",
            Self::Done => "event Done",
            Self::Free => "mutex Free",
            Self::Owner => "mutex of the server",
        })
    }
}

/// A name that no object can have, or two objects with one name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "name {name:?} of the {object}: {problem}; a name has 1 to {NAME_UNITS_MAX} UTF-16 units, no NUL, and no backslash \
     but that of a leading Local\\ or Global\\"
)]
pub struct NameError {
    /// Whose name it is.
    pub object: Object,
    /// The name as given.
    pub name: String,
    /// Which rule it breaks.
    pub problem: &'static str,
}

/// Most UTF-16 units of a name; Win32 has room for 260 and ends them with a NUL.
const NAME_UNITS_MAX: usize = 259;

/// The names of one endpoint's objects, chosen by the application.
///
/// A name without a prefix, or with `Local\`, belongs to the session of the user who logged on. `Global\` is for all
/// sessions: a service and a desktop program meet there. To make a mapping under `Global\` takes the privilege
/// `SeCreateGlobalPrivilege`, which services and elevated programs have; to open one takes none.
///
/// Win32 tells names apart by case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    memory: String,
    exec: String,
    done: String,
    free: String,
    owner: String,
}

impl Names {
    /// Checks four names and keeps them. The server's mutex is called like the memory, with `.callgate-owner` behind
    /// it.
    ///
    /// # Errors
    /// [`NameError`] where one is no name, or two are one: there are programs that wait for Done under Exec's name, and
    /// never worked.
    pub fn new(
        memory: impl Into<String>,
        exec: impl Into<String>,
        done: impl Into<String>,
        free: impl Into<String>,
    ) -> Result<Self, NameError> {
        let memory = memory.into();
        let owner = format!("{memory}.callgate-owner");
        Self { memory, exec: exec.into(), done: done.into(), free: free.into(), owner }.checked()
    }

    /// Chooses another name for the mutex of the server, where the one made from the memory's is taken or too long.
    ///
    /// # Errors
    /// As [`Names::new`].
    pub fn with_owner(mut self, owner: impl Into<String>) -> Result<Self, NameError> {
        self.owner = owner.into();
        self.checked()
    }

    /// The name of one of the objects, as given.
    #[must_use]
    pub fn of(&self, object: Object) -> &str {
        match object {
            Object::Memory => &self.memory,
            Object::Exec => &self.exec,
            Object::Done => &self.done,
            Object::Free => &self.free,
            Object::Owner => &self.owner,
        }
    }

    fn checked(self) -> Result<Self, NameError> {
        use Object::{Done, Exec, Free, Memory, Owner};
        let objects = [Memory, Exec, Done, Free, Owner];
        for (at, object) in objects.into_iter().enumerate() {
            let name = self.of(object);
            let same = |other: &Object| key(self.of(*other)) == key(name);
            let problem = problem(name)
                .or_else(|| objects[..at].iter().any(same).then_some("another object has it"));
            if let Some(problem) = problem {
                return Err(NameError { object, name: name.to_owned(), problem });
            }
        }
        Ok(self)
    }
}

/// What two spellings of one name have in common. (In session 0 `Global\` and `Local\` are one place too; nothing here
/// can know that it runs there.)
pub(crate) fn key(name: &str) -> &str {
    name.strip_prefix(r"Local\").unwrap_or(name)
}

fn problem(name: &str) -> Option<&'static str> {
    let rest = key(name);
    let rest =
        if rest.len() == name.len() { name.strip_prefix(r"Global\").unwrap_or(name) } else { rest };
    if rest.is_empty() {
        Some("it is empty")
    } else if rest.contains('\0') {
        Some("it has a NUL")
    } else if rest.contains('\\') {
        Some("it has a backslash")
    } else if name.encode_utf16().count() > NAME_UNITS_MAX {
        Some("it is too long")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem_of(names: Result<Names, NameError>) -> (Object, &'static str) {
        let error = names.unwrap_err();
        (error.object, error.problem)
    }

    #[test]
    fn names_are_kept_as_given() {
        let names =
            Names::new(r"Global\Orders", "OrdersExec", r"Local\OrdersDone", "Frei").unwrap();
        assert_eq!(names.of(Object::Memory), r"Global\Orders");
        assert_eq!(names.of(Object::Done), r"Local\OrdersDone");
        assert_eq!(names.of(Object::Owner), r"Global\Orders.callgate-owner");
        assert_eq!(names.with_owner("o").unwrap().of(Object::Owner), "o");
    }

    #[test]
    fn done_under_the_name_of_exec_is_refused_however_it_is_spelt() {
        assert_eq!(
            problem_of(Names::new("m", "e", r"Local\e", "f")),
            (Object::Done, "another object has it")
        );
        assert_eq!(
            problem_of(Names::new("m", "e", "d", "f").unwrap().with_owner("f")),
            (Object::Owner, "another object has it")
        );
    }

    #[test]
    fn what_is_no_name() {
        assert_eq!(problem_of(Names::new("", "e", "d", "f")), (Object::Memory, "it is empty"));
        assert_eq!(problem_of(Names::new("m", r"Global\", "d", "f")).1, "it is empty");
        assert_eq!(problem_of(Names::new("m", "e\0", "d", "f")), (Object::Exec, "it has a NUL"));
        assert_eq!(problem_of(Names::new("m", "e", r"a\b", "f")).1, "it has a backslash");
        assert_eq!(
            problem_of(Names::new("m", "e", "d", r"Local\Global\f")).1,
            "it has a backslash"
        );
        assert_eq!(problem_of(Names::new("m", "e".repeat(260), "d", "f")).1, "it is too long");
        assert!(Names::new("m", "e".repeat(259), "d", "f").is_ok());
        // Two units each.
        assert_eq!(
            problem_of(Names::new("m", "\u{1f980}".repeat(130), "d", "f")).1,
            "it is too long"
        );
        // The name made for the server's mutex.
        assert_eq!(problem_of(Names::new("m".repeat(259), "e", "d", "f")).0, Object::Owner);
        assert!(
            NameError { object: Object::Free, name: "x".into(), problem: "p" }
                .to_string()
                .contains("mutex Free")
        );
    }
}
