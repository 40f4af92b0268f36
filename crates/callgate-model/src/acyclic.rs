//! Whether the states of a model form no cycle.
//!
//! "Every call ends" is checked where a path ends. In a graph without cycles every path ends, so nothing escapes that
//! check: no thread runs for ever without getting on. (A thread that looks and finds nothing does not change the state, and
//! is no step: that it is not alone in running is the fairness that is assumed.) The checker itself does not look for
//! cycles; this does.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};

use stateright::Model;

/// A key that is a hash already.
#[derive(Default)]
struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("numbers only")
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

fn fingerprint(state: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

/// What a walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acyclic {
    /// States seen.
    pub states: usize,
    /// Whether those were all.
    pub complete: bool,
}

/// Walks through the states, depth first, at most `most` of them.
///
/// # Errors
/// The steps of a cycle.
pub fn walk<M: Model>(model: &M, most: usize) -> Result<Acyclic, Vec<String>>
where
    M::State: Hash,
    M::Action: std::fmt::Debug + Clone,
{
    // Whether it is on the path.
    let mut seen: HashMap<u64, bool, BuildHasherDefault<Plain>> = HashMap::default();
    struct Step<M: Model> {
        state: M::State,
        key: u64,
        left: Vec<M::Action>,
        taken: Option<M::Action>,
    }
    let begin = |state: M::State, key: u64| -> Step<M> {
        let mut left = Vec::new();
        model.actions(&state, &mut left);
        Step { state, key, left, taken: None }
    };
    let mut complete = true;
    for first in model.init_states() {
        let key = fingerprint(&first);
        seen.insert(key, true);
        let mut path = vec![begin(first, key)];
        while let Some(step) = path.last_mut() {
            let Some(action) = step.left.pop() else {
                seen.insert(step.key, false);
                path.pop();
                continue;
            };
            step.taken = Some(action.clone());
            let Some(next) = model.next_state(&step.state, action) else { continue };
            let key = fingerprint(&next);
            match seen.get(&key) {
                Some(true) => {
                    let from = path.iter().position(|step| step.key == key).unwrap_or(0);
                    return Err(path[from..]
                        .iter()
                        .map(|step| format!("{:?}", step.taken))
                        .collect());
                }
                Some(false) => {}
                None if seen.len() >= most => complete = false,
                None => {
                    seen.insert(key, true);
                    path.push(begin(next, key));
                }
            }
        }
    }
    Ok(Acyclic { states: seen.len(), complete })
}
