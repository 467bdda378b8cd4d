//! Workflows: jobs that start when another one has ended, with what its script handed on.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Starts the job `to` when the job `from` has ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edge {
    pub from: String,
    pub to: String,
    pub on: On,
}

/// The end that an edge is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum On {
    Success,
    Failure,
    Always,
    /// The report's `condition` is true, whatever its status.
    Condition,
}

impl On {
    fn applies(self, status: &str, condition: bool) -> bool {
        match self {
            Self::Success => status == "completed",
            Self::Failure => status == "failed",
            Self::Always => true,
            Self::Condition => condition,
        }
    }
}

/// All workflows: they share the names of their jobs with the queue, so one graph is enough.
#[derive(Debug, Default)]
pub(crate) struct Workflows {
    edges: Vec<Edge>,
    nodes: HashMap<String, Node>,
    /// The node of each job that was started. A node that is started again makes a job of another id.
    node_of: HashMap<String, String>,
}

#[derive(Debug)]
struct Node {
    payload: Value,
    /// The input of the job that the workflow begins with.
    first_input: Value,
    started: u32,
}

impl Workflows {
    /// Takes a workflow; the jobs that start at once come back.
    pub(crate) fn add(&mut self, jobs: Vec<Value>, edges: Vec<Edge>) -> Result<Vec<Value>, String> {
        let id = |job: &Value| job["id"].as_str().unwrap_or_default().to_owned();
        let known = |name: &String| jobs.iter().any(|job| id(job) == *name) && !self.nodes.contains_key(name);
        if let Some(edge) = edges.iter().find(|edge| !known(&edge.from) || !known(&edge.to)) {
            return Err(format!("the edge from {} to {} has a job that is not in this workflow", edge.from, edge.to));
        }
        let waits = |job: &Value| edges.iter().any(|edge| edge.to == id(job));
        let first = jobs.iter().find(|job| !waits(job)).ok_or("a workflow needs a job that no edge leads to")?;
        let first_input = first["execution"]["inputData"].clone();
        let now: Vec<String> = jobs.iter().filter(|job| !waits(job)).map(id).collect();
        for payload in jobs {
            let node = Node { payload, first_input: first_input.clone(), started: 0 };
            self.nodes.insert(id(&node.payload), node);
        }
        self.edges.extend(edges);
        Ok(now.iter().filter_map(|name| self.start(name, None)).collect())
    }

    /// The jobs that start because this one has ended. A second report of the same end starts them again.
    pub(crate) fn follow(&mut self, job: &str, status: &str, result: &Value) -> Vec<Value> {
        let Some(name) = self.node_of.get(job).cloned() else { return Vec::new() };
        let condition = result["condition"] == true;
        let leads = |edge: &&Edge| edge.from == name && edge.on.applies(status, condition);
        let next: Vec<String> = self.edges.iter().filter(leads).map(|edge| edge.to.clone()).collect();
        let input = if status == "completed" { &result["scriptOutput"] } else { &Value::Null };
        next.iter().filter_map(|name| self.start(name, Some(input))).collect()
    }

    /// The payload of a node's next job. `output` is what the job before it handed on.
    fn start(&mut self, name: &str, output: Option<&Value>) -> Option<Value> {
        let node = self.nodes.get_mut(name)?;
        node.started += 1;
        let mut payload = node.payload.clone();
        if node.started > 1 {
            payload["id"] = json!(format!("{name}-{}", node.started));
        }
        if let Some(output) = output {
            payload["execution"]["inputData"] = match output {
                Value::Object(_) | Value::Array(_) => output.clone(),
                Value::Null => node.first_input.clone(),
                _ => json!({}),
            };
        }
        payload["metadata"]["triggeredBy"] = json!("workflow");
        let id = payload["id"].as_str().unwrap_or_default().to_owned();
        self.node_of.insert(id, name.to_owned());
        Some(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: &str) -> Value {
        json!({"id": id, "execution": {"inputData": {"of": id}}})
    }

    fn edge(from: &str, to: &str, on: On) -> Edge {
        Edge { from: from.to_owned(), to: to.to_owned(), on }
    }

    #[test]
    fn a_job_hands_on_objects_and_lists_and_nothing_else() {
        for (status, output, wanted) in [
            ("completed", json!({"rows": 3}), json!({"rows": 3})),
            ("completed", json!([1]), json!([1])),
            ("completed", json!("text"), json!({})),
            ("completed", json!(7), json!({})),
            ("completed", Value::Null, json!({"of": "a"})),
            ("failed", json!({"rows": 3}), json!({"of": "a"})),
        ] {
            let mut all = Workflows::default();
            assert_eq!(all.add(vec![job("a"), job("b")], vec![edge("a", "b", On::Always)]).expect("valid").len(), 1);
            let next = all.follow("a", status, &json!({"scriptOutput": output}));
            assert_eq!(next[0]["execution"]["inputData"], wanted, "{status} {output}");
            assert_eq!((&next[0]["id"], &next[0]["metadata"]["triggeredBy"]), (&json!("b"), &json!("workflow")));
            assert_eq!(all.follow("a", status, &Value::Null)[0]["id"], "b-2", "a second report");
        }
    }

    #[test]
    fn an_edge_is_for_one_end() {
        let mut all = Workflows::default();
        let edges = [On::Success, On::Failure, On::Always, On::Condition];
        let edges = edges.iter().zip(["s", "f", "a", "c"]).map(|(on, to)| edge("x", to, *on)).collect();
        all.add(["x", "s", "f", "a", "c"].map(job).into(), edges).expect("valid");
        let mut ends = |status, condition: Value| {
            let next = all.follow("x", status, &json!({"condition": condition}));
            next.iter().filter_map(|job| job["id"].as_str()?.get(..1).map(str::to_owned)).collect::<String>()
        };
        assert_eq!(ends("completed", Value::Null), "sa");
        assert_eq!(ends("failed", json!(true)), "fac");
        assert_eq!(ends("cancelled", json!(false)), "a");
        assert!(all.add(vec![job("y")], vec![edge("y", "x", On::Always)]).is_err());
    }
}
