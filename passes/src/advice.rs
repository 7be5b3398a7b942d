//! What to change in a model where a pattern was nearly found, by the reason why it was left alone.

/// What whoever exports the model can do about a refusal; `None` where nothing is to be done.
pub fn advice(reason: &str) -> Option<&'static str> {
    ADVICE.iter().find(|(_, reasons)| reasons.contains(&reason)).map(|(advice, _)| *advice)
}

const ADVICE: &[(&str, &[&str])] = &[
    (
        "export the model with named dynamic dimensions and shapes of all values (`onnx.shape_inference`), or fix sizes with `--dim NAME=N`",
        &[
            "the number of experts is not known",
            "the number of experts of a token is not known",
            "the number of heads is not known",
            "the number of inputs of an expert is not known",
            "the number of pairs is not known",
            "the number of tokens is not known",
            "the rank of a bias is not known",
            "the rank of the logits is not known",
            "the rank of the result is not known",
            "the rank of the scores is not known",
            "the rank of the queries is not known",
            "the shapes of the experts are not known",
            "the sizes of the layer are not surely the same",
            "the window of the mask has no fixed width",
            "the heads of the cache are not numbers",
            "the operands do not fit the new operator",
            "the new operator would assume more about the shapes than the model does",
            "the replacement is not surely of the same type",
            "the width of the rotation is not a number",
            "the bias is not known to have a column for every key up to the longest length",
        ],
    ),
    (
        "export the experts in a form of docs/moe_forms.md: transformers' `experts_implementation=\"batched_mm\"` or `\"grouped_mm\"`, or a loop over all experts",
        &[
            "a term of the sum is not an expert's rows times their weights",
            "an expert does not read the rows of all tokens",
            "an expert does not read the rows of its tokens",
            "an expert's rows are not added at their tokens",
            "an expert's second layer reads rows that are not its own",
            "gate and linear part read different rows",
            "gathered weights meet more than one row each",
            "it is not clear which row of x an expert reads",
            "it is not clear which rows all experts read",
            "it is not clear which tokens chose an expert",
            "logits have experts",
            "rows replace each other where a token may choose an expert twice",
            "the experts do not compute the same function of their weights",
            "the scores are not those of chosen experts scattered into zeros",
            "the scores of the experts are not [tokens, experts]",
            "the sorted rows are not one product per expert times their weights",
            "the sum is not over the experts of a token",
            "the terms of the sum do not share tokens, ids and weights",
            "there is not one weight for each gathered expert",
            "two terms of the sum are the same expert, or one expert has none",
            "what lies between the two layers of an expert is not a known activation",
            "the weights of the experts are not in one place",
        ],
    ),
    (
        "store gate and linear part the same way, the gate first: `[E, 2 I, H]` in halves or alternating, or as two weights",
        &[
            "gate and linear part are not halves of one product",
            "gate and linear part are not parts of a product",
            "gate and linear part are stored in different orders",
            "the gate is not the first of the two halves of its product",
        ],
    ),
    (
        "keep the weights of all experts as initializers of one type, not as results of other nodes",
        &[
            "the weights of the experts are not constants",
            "the weights of the experts have different types",
            "logits and selection bias have different types",
        ],
    ),
    (
        "quantise the experts to integers of 2, 4 or 8 bits with a scale per expert, per output, or per block of inputs, and dequantise them to \
         the type of the rows that they meet; or use com.microsoft's QMoE",
        &[
            "codes and zero points of the quantised weights have different types",
            "dequantised weights may be too large for the type of their product",
            "only one of gate and linear part is quantised",
            "scales or zero points of the quantised weights are not gathered with them, or are cut along the experts",
            "the dequantised weights are rounded to another type than that of their product",
            "the gathered weights are quantised to other codes than integers of 2, 4 or 8 bits",
            "the inputs of quantised experts do not share scales in blocks of one size",
        ],
    ),
    (
        "export the model with only its logits and caches as results (`output_attentions=False`)",
        &["the scores of the attention are a result too", "the weights or scores of the attention have another reader"],
    ),
    (
        "export with one mask that is added to the scores or selects them, made of positions and `attention_mask` (transformers' `attn_implementation=\"sdpa\"`)",
        &[
            "a part of the mask depends on positions in another way",
            "besides positions, the mask adds other numbers",
            "the mask depends on positions in another way",
            "the mask has two conditions of one kind on positions",
            "the mask hides keys by a finite number and lengths hide others",
            "the mask meets the scores where their first dimensions are not batch and heads",
            "the number that replaces a score is not low enough to hide its key",
            "one mask is added and another one selects",
            "the scores are capped after they are masked",
            "the scores are scaled after they are masked or capped",
            "the softmax is not over the keys",
            "the products of the attention are not over [batch, heads, rows, width]",
        ],
    ),
    (
        "export positions as `position_ids` and tables of cosines and sines as `[B, S, D / 2]`, or twice side by side as transformers does",
        &[
            "cosines and sines have different shapes",
            "every head is rotated by its own angles",
            "the halves of the table of cosines or sines are not known to be equal",
            "the tables do not have half the width of a head",
            "the tables of the rotation are missing",
            "what is rotated and what is not are not the beginning and the end of a head",
            "what is rotated does not have four dimensions",
            "what is turned are not the halves of a head",
        ],
    ),
    (
        "give the model past keys and values `[B, H, P, D]` with a present for each, as in docs/kv_forms.md (optimum: `--task text-generation-with-past`)",
        &[
            "new rows are not written where the sequence ends",
            "new rows do not come behind the cache along its third dimension",
            "no attention that was recognised reads the cache",
            "only one of keys and values is a cache",
            "the attention over the cache gives another shape",
            "the attention's rows do not stand behind the cache",
            "the cache does not fit",
            "the cache does not have four dimensions",
            "the new rows do not fit the cache",
            "two attentions append to one cache",
            "queries, keys and values do not lie side by side",
        ],
    ),
    (
        "export with a causal mask, and with `attention_mask` and `position_ids` as inputs from which everything about lengths is computed",
        &[
            "it cannot take positions that differ by sequence",
            "it needs an input that a step does not have, or the past itself",
            "it needs the past length, which differs by sequence",
            "nothing hides later keys from a row: the mask is not causal",
            "the lengths are not those of the attention mask",
            "the longest length is data; export `total_sequence_length` as the size of the attention mask",
            "the mask is not only causal over a mask of ones",
            "the number of valid keys is not the past length and the new rows",
        ],
    ),
    ("export without an attention bias (ALiBi and the like), or run `main`", &["a bias is added to the scores"]),
    (
        "export with dynamic dimensions for the batch and the sequence",
        &["the batch is fixed: sequences cannot be batched", "the number of new tokens is fixed"],
    ),
    ("name the tokens `input_ids`, integers of `[batch, sequence]`", &["no input looks like tokens (`input_ids`)"]),
    ("make logits `[batch, sequence, vocabulary]` the first result", &["there is no result of logits for every token"]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// The texts of refusals in a source file, tests left out.
    fn refusals(source: &str) -> Vec<String> {
        let source = source.split("#[cfg(test)]").next().unwrap_or_default().replace("\\\n", "\n");
        let mut found = vec![];
        for opening in ["Refused(", "refuse(", "require("] {
            for (at, _) in source.match_indices(opening) {
                let inside = &source[at + opening.len()..];
                let mut depth = 1;
                let mut quoted = false;
                let end = inside.find(|c: char| {
                    quoted ^= c == '"';
                    depth += i32::from(!quoted && c == '(') - i32::from(!quoted && c == ')');
                    depth == 0
                });
                let mut parts = inside[..end.unwrap_or(0)].rsplit('"');
                if let (Some(_), Some(text)) = (parts.next(), parts.next()) {
                    found.push(text.split_whitespace().collect::<Vec<_>>().join(" "));
                }
            }
        }
        found
    }

    #[test]
    fn every_near_miss_of_a_fusion_says_what_to_change() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files = vec![];
        for pass in ["fuse_moe_gemm", "make_kv_stateful", "fuse_attention", "fuse_rope"] {
            files.push(root.join(format!("{pass}.rs")));
            files.extend(std::fs::read_dir(root.join(pass)).unwrap().map(|e| e.unwrap().path()));
        }
        let texts: Vec<String> =
            files.iter().filter(|f| f.is_file()).map(|f| std::fs::read_to_string(f).unwrap()).collect();
        let found: Vec<String> = texts.iter().flat_map(|t| refusals(t)).collect();
        assert!(found.len() > 80, "{} refusals", found.len());
        let silent: Vec<&String> =
            found.iter().filter(|why| advice(why).is_none() && !why.contains("export the model again")).collect();
        assert!(silent.is_empty(), "no advice for {silent:#?}");
    }
}
