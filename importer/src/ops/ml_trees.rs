//! Tree ensembles of `ai.onnx.ml`: every form becomes one list of nodes and one of leaves.

use std::collections::HashMap;

use ir::dtype::DType;
use ir::graph::Value;
use ir::ops::Binary;
use ir::ops::host::{Aggregate, ChooseLabel, PostTransform, Scores, Transform, TreeEnsemble};
use ir::scalar::BinaryFn;
use ir::tensor::Tensor;

use super::Table;
use crate::node::{NodeCx, NodeError};

pub(super) const TABLE: Table = &[
    ("ai.onnx.ml", "TreeEnsemble", tree_ensemble),
    ("ai.onnx.ml", "TreeEnsembleClassifier", classifier),
    ("ai.onnx.ml", "TreeEnsembleRegressor", regressor),
];

/// The operands of `tree_ensemble` after the first.
#[derive(Default)]
struct Trees {
    roots: Vec<i64>,
    feature: Vec<i64>,
    mode: Vec<u8>,
    split: Vec<f64>,
    yes: Vec<i64>,
    no: Vec<i64>,
    missing: Vec<u8>,
    leaf_end: Vec<i64>,
    leaf_target: Vec<i64>,
    leaf_weight: Vec<f64>,
    members: Vec<f64>,
    member_end: Vec<i64>,
}

impl Trees {
    fn push(self, cx: &mut NodeCx<'_>, x: Value, op: TreeEnsemble) -> Result<Value, NodeError> {
        let bytes = |v: &[u8]| Tensor::from_slice(&[v.len()], v).expect("the length is the list's");
        let floats = |v: &[f64]| Tensor::from_slice(&[v.len()], v).expect("the length is the list's");
        let mut lists = vec![
            Tensor::vector_i64(&self.roots),
            Tensor::vector_i64(&self.feature),
            bytes(&self.mode),
            floats(&self.split),
            Tensor::vector_i64(&self.yes),
            Tensor::vector_i64(&self.no),
            bytes(&self.missing),
            Tensor::vector_i64(&self.leaf_end),
            Tensor::vector_i64(&self.leaf_target),
            floats(&self.leaf_weight),
        ];
        if !self.member_end.is_empty() {
            lists.extend([floats(&self.members), Tensor::vector_i64(&self.member_end)]);
        }
        let mut operands = vec![x];
        for list in lists {
            operands.push(cx.add_constant(list));
        }
        cx.push(op, &operands)
    }
}

fn tree_ensemble(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let wrong = |e: ir::tensor::TensorError| NodeError::wrong(e.to_string());
    let floats = |cx: &NodeCx<'_>, name: &str| match cx.opt_tensor(name)? {
        Some(t) => t.to_f64().map_err(wrong),
        None => Ok(vec![]),
    };
    let ints = |name: &str| cx.attr_ints(name, &[]);
    let leaf_target = ints("leaf_targetids")?;
    let mut t = Trees {
        leaf_end: (1..=leaf_target.len() as i64).collect(),
        leaf_target,
        leaf_weight: floats(cx, "leaf_weights")?,
        feature: ints("nodes_featureids")?,
        mode: floats(cx, "nodes_modes")?.into_iter().map(|m| m as u8).collect(),
        split: floats(cx, "nodes_splits")?,
        ..Trees::default()
    };
    let n = t.feature.len();
    let child = |nodes: &str, leaves: &str| {
        let leaf = |i: usize, leaves: &[i64]| leaves.get(i).is_some_and(|l| *l != 0);
        let (to, leaves) = (ints(nodes)?, ints(leaves)?);
        let to = to.into_iter().enumerate();
        Ok::<Vec<i64>, NodeError>(to.map(|(i, to)| if leaf(i, &leaves) { -1 - to } else { to }).collect())
    };
    t.yes = child("nodes_truenodeids", "nodes_trueleafs")?;
    t.no = child("nodes_falsenodeids", "nodes_falseleafs")?;
    t.missing = ints("nodes_missing_value_tracks_true")?.iter().map(|m| u8::from(*m != 0)).collect();
    t.missing.resize(n, 0);
    t.roots = ints("tree_roots")?;
    // The sets of member nodes follow each other in node order, each closed by a NaN.
    let members = floats(cx, "membership_values")?;
    let mut sets = members.split(|v| v.is_nan());
    for (i, _) in t.mode.iter().enumerate().filter(|(_, mode)| **mode == 6) {
        t.members.extend(sets.next().unwrap_or_default());
        t.member_end.push(t.members.len() as i64);
        if let Some(split) = t.split.get_mut(i) {
            *split = (t.member_end.len() - 1) as f64;
        }
    }
    let f = match cx.attr_i64("aggregate_function", 1)? {
        0 => Aggregate::Average,
        1 => Aggregate::Sum,
        2 => Aggregate::Min,
        3 => Aggregate::Max,
        other => return Err(NodeError::wrong(format!("attribute `aggregate_function` is {other}"))),
    };
    let transform = match cx.attr_i64("post_transform", 0)? {
        0 => None,
        1 => Some(Transform::Softmax),
        2 => Some(Transform::Logistic),
        3 => Some(Transform::SoftmaxZero),
        4 => Some(Transform::Probit),
        other => return Err(NodeError::wrong(format!("attribute `post_transform` is {other}"))),
    };
    let op = TreeEnsemble { targets: cx.attr_i64("n_targets", 1)?, f, dtype: cx.dtype(x)? };
    let y = t.push(cx, x, op)?;
    Ok(vec![transformed(cx, y, transform)?])
}

/// The nodes of the older forms, where trees and nodes have numbers. `kind` is `target` or `class`.
fn listed(cx: &NodeCx<'_>, kind: &str) -> Result<Trees, NodeError> {
    let wrong = |e: ir::tensor::TensorError| NodeError::wrong(e.to_string());
    let floats = |name: &str| match cx.opt_tensor(&format!("{name}_as_tensor"))? {
        Some(t) => t.to_f64().map_err(wrong),
        None => Ok(cx.attr_floats(name, &[])?.into_iter().map(f64::from).collect()),
    };
    let ints = |name: &str| cx.attr_ints(name, &[]);
    let (tree, node) = (ints("nodes_treeids")?, ints("nodes_nodeids")?);
    let modes = cx.attr_strs("nodes_modes", &[])?;
    let (yes, no) = (ints("nodes_truenodeids")?, ints("nodes_falsenodeids")?);
    let (feature, value) = (ints("nodes_featureids")?, floats("nodes_values")?);
    let missing = ints("nodes_missing_value_tracks_true")?;
    let n = tree.len();
    if [node.len(), modes.len(), yes.len(), no.len(), feature.len(), value.len()].iter().any(|l| *l != n) {
        return Err(NodeError::wrong("the lists that describe the nodes differ in length"));
    }
    let mut entries: HashMap<(i64, i64), Vec<(i64, f64)>> = HashMap::new();
    let (weights, targets) = (floats(&format!("{kind}_weights"))?, ints(&format!("{kind}_ids"))?);
    let (trees, nodes) = (ints(&format!("{kind}_treeids"))?, ints(&format!("{kind}_nodeids"))?);
    if [targets.len(), trees.len(), nodes.len()].iter().any(|l| *l != weights.len()) {
        return Err(NodeError::wrong("the lists that describe the leaves differ in length"));
    }
    for (i, weight) in weights.into_iter().enumerate() {
        entries.entry((trees[i], nodes[i])).or_default().push((targets[i], weight));
    }
    let mut t = Trees::default();
    // Where a (tree, node) went: branches count up from 0, leaves down from -1.
    let mut place: HashMap<(i64, i64), i64> = HashMap::with_capacity(n);
    let mut branches = vec![];
    for i in 0..n {
        let key = (tree[i], node[i]);
        let at = if modes[i] == "LEAF" {
            for (target, weight) in entries.remove(&key).unwrap_or_default() {
                t.leaf_target.push(target);
                t.leaf_weight.push(weight);
            }
            t.leaf_end.push(t.leaf_target.len() as i64);
            -(t.leaf_end.len() as i64)
        } else {
            branches.push(i);
            branches.len() as i64 - 1
        };
        if i == 0 || tree[i - 1] != tree[i] {
            t.roots.push(at);
        }
        if place.insert(key, at).is_some() {
            return Err(NodeError::wrong(format!("tree {} has two nodes {}", key.0, key.1)));
        }
    }
    for i in branches {
        let child = |to: i64| {
            let found = place.get(&(tree[i], to)).copied();
            found.ok_or_else(|| NodeError::wrong(format!("tree {} has no node {to}", tree[i])))
        };
        t.yes.push(child(yes[i])?);
        t.no.push(child(no[i])?);
        t.feature.push(feature[i]);
        t.split.push(value[i]);
        t.missing.push(u8::from(missing.get(i).is_some_and(|m| *m != 0)));
        t.mode.push(match &*modes[i] {
            "BRANCH_LEQ" => 0,
            "BRANCH_LT" => 1,
            "BRANCH_GTE" => 2,
            "BRANCH_GT" => 3,
            "BRANCH_EQ" => 4,
            "BRANCH_NEQ" => 5,
            other => return Err(NodeError::wrong(format!("a node of mode `{other}`"))),
        });
    }
    Ok(t)
}

fn regressor(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let t = listed(cx, "target")?;
    let f = match &*cx.attr_str("aggregate_function", "SUM")? {
        "SUM" => Aggregate::Sum,
        "AVERAGE" => Aggregate::Average,
        "MIN" => Aggregate::Min,
        "MAX" => Aggregate::Max,
        other => return Err(NodeError::wrong(format!("attribute `aggregate_function` is `{other}`"))),
    };
    let y = t.push(cx, x, TreeEnsemble { targets: cx.attr_i64("n_targets", 1)?, f, dtype: DType::F32 })?;
    let y = with_base(cx, y, None)?;
    let transform = transform(cx)?;
    Ok(vec![transformed(cx, y, transform)?])
}

/// With two labels and weights for only one class, there is one score: a probability if no weight is negative.
fn classifier(cx: &mut NodeCx<'_>) -> Result<Vec<Value>, NodeError> {
    let x = cx.input(0)?;
    let mut t = listed(cx, "class")?;
    let labels = labels(cx)?;
    let count = cx.tensor(labels)?.shape.elements().and_then(|n| n.as_const()).unwrap_or(0);
    let transform = transform(cx)?;
    let class = t.leaf_target.first().copied().unwrap_or(0);
    let binary = count == 2 && t.leaf_target.iter().all(|c| *c == class);
    if !binary {
        let y = t.push(cx, x, TreeEnsemble { targets: count, f: Aggregate::Sum, dtype: DType::F32 })?;
        let y = with_base(cx, y, None)?;
        let chosen = cx.push_n(ChooseLabel { f: Scores::PerLabel }, &[y, labels], 2)?;
        return Ok(vec![chosen[0], transformed(cx, chosen[1], transform)?]);
    }
    let probability = t.leaf_weight.iter().all(|w| *w >= 0.0);
    t.leaf_target.fill(0);
    let y = t.push(cx, x, TreeEnsemble { targets: 1, f: Aggregate::Sum, dtype: DType::F32 })?;
    let y = with_base(cx, y, Some(1))?;
    let f = if probability { Scores::Probability } else { Scores::Evidence };
    let chosen = cx.push_n(ChooseLabel { f }, &[y, labels], 2)?;
    if transform != Some(Transform::Logistic) {
        return Ok(chosen);
    }
    // The logistic function takes evidence whatever the label was chosen by.
    let evidence = match probability {
        true => cx.push_n(ChooseLabel { f: Scores::Evidence }, &[y, labels], 2)?[1],
        false => chosen[1],
    };
    Ok(vec![chosen[0], transformed(cx, evidence, transform)?])
}

/// Adds `base_values`; `only` picks the last of at most two for the single score of a binary classifier.
fn with_base(cx: &mut NodeCx<'_>, y: Value, only: Option<usize>) -> Result<Value, NodeError> {
    let wrong = |e: ir::tensor::TensorError| NodeError::wrong(e.to_string());
    let mut base: Vec<f64> = match cx.opt_tensor("base_values_as_tensor")? {
        Some(t) => t.to_f64().map_err(wrong)?,
        None => cx.attr_floats("base_values", &[])?.into_iter().map(f64::from).collect(),
    };
    if only.is_some() && base.len() > 1 {
        base.drain(..base.len() - 1);
    }
    if base.is_empty() {
        return Ok(y);
    }
    let base = Tensor::from_f64(cx.dtype(y)?, &[base.len()], &base).map_err(wrong)?;
    let base = cx.add_constant(base);
    cx.push(Binary { f: BinaryFn::Add }, &[y, base])
}

/// The labels of a classifier.
pub(super) fn labels(cx: &mut NodeCx<'_>) -> Result<Value, NodeError> {
    for name in ["classlabels_strings", "classlabels_string", "classlabels_str"] {
        if let Some(texts) = cx.opt_strs(name)?.filter(|texts| !texts.is_empty()) {
            let texts = Tensor::from_strings(&[texts.len()], texts).map_err(|e| NodeError::wrong(e.to_string()))?;
            return Ok(cx.add_constant(texts));
        }
    }
    for name in ["classlabels_int64s", "classlabels_ints"] {
        if let Some(numbers) = cx.opt_ints(name)?.filter(|numbers| !numbers.is_empty()) {
            return Ok(cx.const_i64s(&numbers));
        }
    }
    Err(NodeError::wrong("there are no class labels"))
}

/// The attribute `post_transform`.
pub(super) fn transform(cx: &NodeCx<'_>) -> Result<Option<Transform>, NodeError> {
    Ok(match &*cx.attr_str("post_transform", "NONE")? {
        "NONE" => None,
        "SOFTMAX" => Some(Transform::Softmax),
        "LOGISTIC" => Some(Transform::Logistic),
        "SOFTMAX_ZERO" => Some(Transform::SoftmaxZero),
        "PROBIT" => Some(Transform::Probit),
        other => return Err(NodeError::wrong(format!("attribute `post_transform` is `{other}`"))),
    })
}

pub(super) fn transformed(cx: &mut NodeCx<'_>, y: Value, f: Option<Transform>) -> Result<Value, NodeError> {
    match f {
        Some(f) => cx.push(PostTransform { f }, &[y]),
        None => Ok(y),
    }
}
