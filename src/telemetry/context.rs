//! Which job a thread works for. Every line that the thread logs carries it.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::job::Id;
use crate::redact::Redactor;

thread_local! {
    static CURRENT: RefCell<Option<Context>> = const { RefCell::new(None) };
}

/// A job, its execution and its secrets. Cheap to clone and to take to another thread.
#[derive(Debug, Clone)]
pub struct Context(Arc<(String, String, Redactor)>);

impl Context {
    /// The job's id.
    pub fn job(&self) -> &str {
        &self.0.0
    }

    /// The execution's id.
    pub fn execution(&self) -> &str {
        &self.0.1
    }

    /// Takes the job's secrets out of what is logged.
    pub fn redactor(&self) -> &Redactor {
        &self.0.2
    }

    /// Until the guard is dropped, this thread works for this job.
    pub fn enter(self) -> ContextGuard {
        let before = CURRENT.try_with(|current| current.replace(Some(self))).ok().flatten();
        ContextGuard { before, here: PhantomData }
    }
}

/// Ends a context when it is dropped, and brings back the one before. Stays on its thread.
#[derive(Debug)]
#[must_use = "the context ends when the guard is dropped"]
pub struct ContextGuard {
    before: Option<Context>,
    here: PhantomData<*const ()>,
}

impl Drop for ContextGuard {
    fn drop(&mut self) {
        let before = self.before.take();
        // A thread that ends has no context any more.
        let _ = CURRENT.try_with(|current| current.replace(before));
    }
}

/// Until the guard is dropped, every line that this thread logs carries `job` and `execution`, and none of the job's secrets.
pub fn context(job: &Id, execution: &Id, redactor: &Redactor) -> ContextGuard {
    Context(Arc::new((job.as_str().to_owned(), execution.as_str().to_owned(), redactor.clone()))).enter()
}

/// The context of this thread, to be entered on another.
pub fn current() -> Option<Context> {
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_nest_and_travel() {
        let id = |text: &str| Id::parse(text).expect("id");
        let job = || current().map(|c| format!("{}/{}", c.job(), c.execution()));
        assert_eq!(job(), None);
        let none = Redactor::default();
        let outer = context(&id("j1"), &id("e1"), &none);
        {
            let _inner = context(&id("j2"), &id("e2"), &none);
            assert_eq!(job().as_deref(), Some("j2/e2"));
        }
        assert_eq!(job().as_deref(), Some("j1/e1"));
        let taken = current();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(current().is_none());
                let _here = taken.map(Context::enter);
                assert_eq!(current().map(|c| c.job().to_owned()).as_deref(), Some("j1"));
            });
        });
        drop(outer);
        assert_eq!(job(), None);
    }
}
