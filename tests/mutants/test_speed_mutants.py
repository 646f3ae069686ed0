"""What goes wrong where layers are computed by hand and rows come and go: patches that tests must kill."""

import pytest

from mutants.harness import Mutant, survivors

EQUAL = "kernels/test_fused_decoder.py::test_values_and_gradients_are_those_of_transformers"
IN_PLACE = "kernels/test_fused_decoder.py::test_gradients_added_in_place_are_those_of_the_graph"
FROZEN = "kernels/test_fused_decoder.py::test_frozen_weights_have_no_gradient_and_change_no_other"
COPIES = "kernels/test_fused_decoder.py::test_copies_follow_the_weights"
FOLLOW = "kernels/test_fused_decoder.py::test_copies_follow_the_optimiser"
UNKNOWN = "kernels/test_fused_decoder.py::test_what_is_not_known_is_left_to_its_own_forward_pass"
COME_AND_GO = (
    "generation/engines/test_selection.py::"
    "test_rows_that_come_and_go_are_answered_as_those_that_transformers_caches"
)
ROOM = (
    "generation/engines/test_selection.py::"
    "test_each_prompt_is_read_once_for_all_its_answers_and_the_next_as_soon_as_there_is_room"
)
PREFIX = "kernels/test_fused_decoder.py::test_what_all_prompts_begin_with_is_read_once"
BY_GRAPH = "kernels/test_fused_decoder.py::test_attention_by_graph_is_that_of_the_kernel"
UNTOUCHED = "training/test_optimizer.py::test_rows_that_nobody_read_take_no_memory"
ROWS = "training/test_optimizer.py::test_a_table_is_clipped_as_all_other_weights"
POSITIONS = "kernels/test_fused_decoder.py::test_what_stands_in_other_positions_is_not_the_same"
ROOM_OF_ROWS = "kernels/test_fused_decoder.py::test_a_row_has_room_for_what_a_prefix_saves"
TWICE = "kernels/test_chunked_lm_head.py::test_chunks_that_are_kept_are_those_computed_again"
CHUNKS = "kernels/test_chunked_lm_head.py::test_every_chunk_size_gives_the_whole_softmax_and_its_gradient"
MOVED = "runtime/test_mapped_weights.py::test_trained_weights_move_out_of_their_file_as_they_are"
MOVED_PARTS = "runtime/test_mapped_weights.py::test_parts_of_one_tensor_stay_that"
SEEN = "kernels/test_fused_modules.py::test_hooks_of_a_layer_are_called_once_a_pass"
BY_THE_GRAPH = (
    "kernels/test_fused_modules.py::test_gradients_are_found_by_the_graph_unless_somebody_asks_otherwise"
)
WAITED_FOR = (
    "kernels/test_fused_modules.py::test_a_weight_that_somebody_waits_for_has_its_gradient_by_the_graph",
    "kernels/test_fused_modules.py::test_only_plain_leaves_without_hooks_are_added_to",
)
EVERY_LAYER = (
    "kernels/test_fused_modules.py::test_in_place_is_the_graph_s_gradient_bit_for_bit",
    "kernels/test_fused_modules.py::test_what_is_computed_again_trains_every_layer_as_what_is_kept",
)
OWN_FORWARD = "kernels/test_fused_modules.py::test_a_layer_with_a_forward_pass_of_its_own_is_left_to_it"
COPIED = "kernels/test_fused_modules.py::test_a_copy_computes_the_same_with_weights_of_its_own"
TRAINERS = "training/test_graph_memory.py::test_trainers_add_gradients_where_they_stand"
GRAPHS = "training/test_graph_memory.py::test_no_graph_stands_when_the_next_part_is_computed"
PREFIXES, READER = "logratio.kernels.packing", "logratio.policies.language"
PRODUCTS, DECODER, SEGMENTS = (
    "logratio.kernels.fused_layers",
    "logratio.kernels.fused_decoder",
    "logratio.kernels.packed_attention",
)
MERGED = "logratio.generation.engines.merged_layer"
GRID, BATCHING = (
    "logratio.generation.engines.shared_prompt_cache",
    "logratio.generation.engines.continuous_batching",
)
AUTOCAST = (
    "generation/engines/test_selection.py::"
    "test_a_model_that_is_not_known_draws_in_bf16_what_autocast_computes"
)
DRAWN = "cli/train/test_on_policy.py::test_in_bf16_what_is_drawn_is_what_is_trained_on[ppo-False]"
PATCHES: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    (
        "answers are drawn while the model's own products are made coarser",
        "logratio.rollouts.collector:LanguageCollector._answer",
        "with self.actor.policy.use_adapter():",
        "with self.actor.policy.forward_context():",
        (DRAWN,),
    ),
    (
        "a model that is not known draws in float32 whatever is asked for",
        "logratio.generation.engines.kv_cache:DecodingState._advance",
        "with autocast(self._precision, self._device):",
        'with autocast("fp32", self._device):',
        (AUTOCAST,),
    ),
    (
        "a part's gradient takes the place of what the parts before it left",
        f"{PRODUCTS}:weight_gradient",
        "        accumulate_matmul(weight.grad, grad_output.T, inner)",
        "        weight.grad = multiply(grad_output.T, inner)",
        (IN_PLACE,),
    ),
    (
        "the head's gradient takes the place of what stood",
        f"{PRODUCTS}:ChunkedWeightGradient.add",
        ("        if self._accumulates:\n            accumulate_matmul(rows, grad_output, inner)"),
        ("        if self._accumulates:\n            rows.copy_(multiply(grad_output, inner))"),
        (IN_PLACE,),
    ),
    (
        "a token read twice counts once in the gradient of its embedding",
        f"{PRODUCTS}:EmbeddingLookup.backward",
        "table.grad.index_add_(0, token_ids, grad_output)",
        "table.grad.index_put_((token_ids,), table.grad[token_ids] + grad_output)",
        (IN_PLACE,),
    ),
    (
        "the derivative of a norm leaves out that its length depends on every number",
        f"{PRODUCTS}:rmsnorm_backward",
        "return gradient.sub_(unit.mul_(mean)).mul_(inverse), to_scale",
        "return gradient.mul_(inverse), to_scale",
        (EQUAL,),
    ),
    (
        "the gate's derivative is that of the sigmoid",
        f"{PRODUCTS}:SwiGLU.backward",
        "to_gate = torch.ops.aten.silu_backward(to_hidden.mul_(up), gate, grad_input=other)",
        "to_gate = to_hidden.mul_(up) * gate.sigmoid()",
        (EQUAL,),
    ),
    (
        "the residual is left out of the backward pass",
        f"{PRODUCTS}:SwiGLU.backward",
        "return (to_states.add_(grad_output), to_scale, None, None, None, None, *gradients, to_down)",
        "return (to_states, to_scale, None, None, None, None, *gradients, to_down)",
        (EQUAL,),
    ),
    (
        "a frozen weight gets a gradient",
        f"{PRODUCTS}:LinearResidual.backward",
        "            if ctx.needs_input_grad[4]\n",
        "            if grad_output is not None\n",
        (FROZEN,),
    ),
    (
        "tokens in other positions count as what all prompts begin with",
        f"{PREFIXES}:_shared_prefix_length",
        "(alike[0] & alike[1]).long()",
        "alike[0].long()",
        (POSITIONS,),
    ),
    (
        "what is asked of a prefix that was left out is answered from before it",
        f"{PREFIXES}:PrefixSharedRow.of",
        ("        index_map[repeated] = torch.arange(prefix).repeat(len(spans) - 1)\n"),
        "",
        (PREFIX,),
    ),
    (
        "behind a shared prefix a group's first tokens see what the prefix's saw",
        f"{SEGMENTS}:attention_segments",
        "mask = additive_mask(group_mask(span), like)[first - edge :]",
        "mask = additive_mask(group_mask(span), like)[: edge - first]",
        (PREFIX,),
    ),
    (
        "an answer of a long group does not see the prefix that another group holds",
        f"{SEGMENTS}:attention_segments",
        "yield AttentionSegment(own_tokens, merge_slices(common, prompt, own_tokens))",
        "yield AttentionSegment(own_tokens, merge_slices(prompt, own_tokens))",
        (PREFIX,),
    ),
    (
        "a prompt that several answers see has the gradient of the last of them",
        f"{SEGMENTS}:AttentionSegment.scatter_add",
        "            total[part] += gradient",
        "            total[part] = gradient",
        (EQUAL,),
    ),
    (
        "states whose numbers stand apart are read as if they stood side by side",
        f"{SEGMENTS}:_readable",
        "return states if states.stride(-1) == 1 else states.contiguous()",
        "return states",
        (BY_GRAPH,),
    ),
    (
        "zeros that nobody writes take memory when they are scaled",
        "logratio.training.optimizer:_scale_rows",
        "if len(rows) < len(table) // 2:",
        "if not len(table):",
        (UNTOUCHED,),
    ),
    (
        "zeros that nobody writes take memory when they are read",
        "logratio.kernels.fused_layers:mmap_zeros",
        "access=mmap.ACCESS_COPY",
        "access=mmap.ACCESS_WRITE",
        (UNTOUCHED,),
    ),
    (
        "rows of a table that somebody read are not scaled",
        "logratio.training.optimizer:_scale_rows",
        "        table[rows] = table[rows].mul_(factor)",
        "        table[rows[:-1]] = table[rows[:-1]].mul_(factor)",
        (ROWS,),
    ),
    (
        "the backward pass of attention is given the softmax's sums of other tokens",
        f"{SEGMENTS}:PackedFlashAttention.backward",
        "saved[4][own_tokens].T[None]",
        "saved[4][: own_tokens.stop - own_tokens.start].T[None]",
        (EQUAL,),
    ),
    (
        "states that are kept stand in memory that the next layer writes over",
        f"{PRODUCTS}:SwiGLU.forward",
        "        gate, up = multiply(normed, gate_weight.T), multiply(normed, up_weight.T)",
        (
            "        gate, up = multiply(normed, gate_weight.T), multiply(normed, up_weight.T)\n"
            "        gate = workspace.empty_like(gate).copy_(gate)"
        ),
        (EQUAL,),
    ),
    (
        "a shared prefix takes room for every group",
        f"{READER}:PackedModel.assign_rows",
        "assign_rows([length - prefix for length in lengths], capacity=max_tokens - prefix)",
        "assign_rows(lengths, capacity=max_tokens)",
        (ROOM_OF_ROWS,),
    ),
    (
        "weights go on with the averages of before a state was loaded",
        "logratio.training.optimizer:PlainAdamW.load_state_dict",
        ("        self._buckets_of_group.clear()\n"),
        "",
        ("training/test_optimizer.py::test_a_state_that_is_loaded_is_the_one_that_goes_on",),
    ),
    (
        "a weight that has its first gradient later is left out for good",
        "logratio.training.optimizer:PlainAdamW._buckets",
        "if identities != known:",
        "if known is None:",
        ("training/test_optimizer.py::test_weights_of_two_number_formats_are_moved_as_pytorch_moves_them",),
    ),
    (
        "bfloat16 copies stay what the weights were before the first step",
        "logratio.training.optimizer:_FusedBucket.step",
        "        increment_version(self.weights)\n",
        "",
        (FOLLOW,),
    ),
    (
        "a gradient is not turned back to its position",
        f"{DECODER}:Rotation.backward",
        "rotate(turned.view(len(turned), -1, cosine.shape[-1]), cosine, -sine)",
        "rotate(turned.view(len(turned), -1, cosine.shape[-1]), cosine, sine)",
        (EQUAL,),
    ),
    (
        "a window of attention is not noticed",
        f"{DECODER}:is_supported",
        '        and not getattr(config, "sliding_window", None)\n',
        "",
        (UNKNOWN,),
    ),
    (
        "a forward pass that somebody put in is not noticed",
        f"{DECODER}:is_supported",
        ' or "forward" in vars(body)',
        "",
        (UNKNOWN,),
    ),
    (
        "tokens of a group see all of it",
        f"{SEGMENTS}:AttentionSegment.mask_arguments",
        '{"attn_mask": self.mask.to(like.dtype), "is_causal": False}',
        '{"attn_mask": None, "is_causal": False}',
        (EQUAL,),
    ),
    (
        "in a long group an answer sees one token ahead",
        f"{SEGMENTS}:AttentionSegment.mask_arguments",
        "visible.tril_(num_keys - num_queries)",
        "visible.tril_(num_keys - num_queries + 1)",
        (EQUAL,),
    ),
    (
        "queries of other heads meet the keys",
        f"{SEGMENTS}:PackedFlashAttention.forward",
        (
            "(queries[segment.query_slice], segment.gather(keys), segment.gather(values))\n"
            "            attended"
        ),
        (
            "(queries.flip(1)[segment.query_slice], segment.gather(keys), segment.gather(values))\n"
            "            attended"
        ),
        (EQUAL,),
    ),
    (
        "a chunk that has been written over is used a second time",
        "logratio.kernels.chunked_lm_head:LogitChunks.second_pass",
        "self._kept.pop(start, None)",
        "self._kept.get(start)",
        (TWICE,),
    ),
    (
        "the next chunk's logits are kept for the gradient",
        "logratio.kernels.chunked_lm_head:LogitChunks.first_pass",
        "self._kept[start] = logits",
        "self._kept[start - self.chunk] = logits",
        (CHUNKS,),
    ),
    (
        "the last layer adds what was attended to at other tokens",
        f"{DECODER}:compute_layer",
        "hidden, attended = hidden[wanted], attended[wanted]",
        "hidden, attended = hidden[wanted], attended[: len(wanted)]",
        (EQUAL,),
    ),
    (
        "a pair's graph stands until the next row has been computed",
        "logratio.algorithms.dpo:backpropagate",
        "return PairLogprobs(*(column.detach() for column in pair)), float(loss.detach())",
        "return pair, float(loss.detach())",
        (GRAPHS,),
    ),
    (
        "an answer's graph stands until the next row of a policy gradient has been computed",
        "logratio.policies.actor_critic:LanguageActor.backpropagate",
        "            yield backpropagate_rows(self._evaluate_rows(row_indices, rows), losses, weights)",
        "            now = self._evaluate_rows(row_indices, rows)\n"
        "            yield backpropagate_rows(now, losses, weights)",
        (GRAPHS,),
    ),
    (
        "the sum over the vocabulary is of the largest logit alone",
        "logratio.kernels.chunked_lm_head:LogitChunks.logsumexp",
        "return self.subtract(logits, largest).exp_().sum(dim=0).log_().add_(largest)",
        "return largest",
        (CHUNKS,),
    ),
    (
        "weights change a little when they move out of their file",
        "logratio.runtime.mapped_weights:copy_out_of_mapping",
        "weight.data = weight.data.clone()",
        "weight.data = weight.data.clone().mul_(1.001)",
        (MOVED,),
    ),
    (
        "parts of one tensor become tensors of their own",
        "logratio.runtime.mapped_weights:copy_out_of_mapping",
        " and sharing[weight.untyped_storage().data_ptr()] == 1",
        "",
        (MOVED_PARTS,),
    ),
    (
        "an update's checkpoint has no optimiser",
        "logratio.training.loop:Session.checkpoint",
        "self.optimizer if self.step < self.num_steps else None",
        "None",
        ("training/test_checkpointing.py::test_a_resumed_run_is_the_run_never_stopped",),
    ),
    (
        "copies stay what they were when the weights move",
        "logratio.kernels.precision:ComputeWeights.of",
        "if kept is None or kept[0] != weight._version:",
        "if kept is None:",
        (COPIES,),
    ),
    (
        "an answer's tokens stand one position too far",
        f"{GRID}:SharedPromptCache.step",
        "positions = self._prompt_lengths[slot] + before",
        "positions = self._prompt_lengths[slot] + before + 1",
        (COME_AND_GO,),
    ),
    (
        "a row sees what a longer prompt left in its place",
        f"{GRID}:SharedPromptCache._masks",
        "prompt = torch.arange(max_prompt_length, device=device) < self._prompt_lengths[:, None]",
        "prompt = torch.arange(max_prompt_length, device=device) < self._prompt_lengths.max()",
        (COME_AND_GO,),
    ),
    (
        "a new answer sees what the one before it in its place said",
        f"{GRID}:SharedPromptCache.admit",
        "        self._lengths[new] = 0\n",
        "",
        (COME_AND_GO,),
    ),
    (
        "answers see each other's tokens",
        f"{GRID}:SharedPromptCache.step",
        "own[0, slot, column, :, before] = key",
        "own[0, slot, column * 0, :, before] = key",
        (COME_AND_GO,),
    ),
    (
        "the next prompts wait for the last answer",
        f"{BATCHING}:ContinuousBatchEngine.room",
        "return free if free >= slots * ADMIT_SHARE else 0",
        "return free if free == slots else 0",
        (ROOM,),
    ),
    (
        "a layer without positions has them all the same",
        f"{DECODER}:compute_layer",
        "    if uses_rope(attention):\n",
        "    if attention is not None:\n",
        (EQUAL,),
    ),
    (
        "queries are normalised by the scale of keys",
        f"{DECODER}:compute_layer",
        "zip(queries_keys, norms, strict=True)",
        "zip(queries_keys, norms[::-1], strict=True)",
        (EQUAL,),
    ),
    (
        "the gradient behind a head's norm is that before it",
        f"{PRODUCTS}:QKNorm.backward",
        "return to_heads.to(states.dtype).view_as(states), to_scale, None, None",
        "return grad_output[0], to_scale, None, None",
        (EQUAL,),
    ),
    (
        "while answers are drawn, a layer without positions has them",
        f"{MERGED}:MergedQKVLayer.project_qkv",
        ("        if uses_rope(self.layer.self_attn):\n"),
        "        if self.layer is not None:\n",
        (COME_AND_GO,),
    ),
    (
        "while answers are drawn, the heads of keys are not normalised",
        f"{MERGED}:MergedQKVLayer.project_qkv",
        "zip((query, key), qk_norms(self.layer.self_attn), strict=False)",
        "zip((query,), qk_norms(self.layer.self_attn), strict=False)",
        (COME_AND_GO,),
    ),
    (
        "a layer is computed beside its module, whose hooks nobody calls",
        f"{DECODER}:Decoder.hidden_states",
        "hidden = layer(hidden, packed=packed)",
        "hidden = layer.forward(hidden, packed=packed)",
        (SEEN,),
    ),
    (
        "the last layer is computed beside its module",
        f"{DECODER}:Decoder.hidden_states",
        "self.body.norm(last(hidden,",
        "self.body.norm(last.forward(hidden,",
        (SEEN,),
    ),
    (
        "embeddings are looked up beside their module",
        f"{DECODER}:Decoder.begin",
        "self.body.embed_tokens(tokens, acc",
        "self.body.embed_tokens.forward(tokens, acc",
        (SEEN,),
    ),
    (
        "a forward pass that somebody gave a layer's class is not noticed",
        f"{DECODER}:is_supported",
        "        _computes_as(layer, layer_class, FusedLayer)\n",
        "        isinstance(layer, layer_class)\n",
        (OWN_FORWARD,),
    ),
    (
        "a forward pass that somebody gave a module inside of a layer is not noticed",
        f"{DECODER}:is_supported",
        '        and not any("forward" in vars(module) for module in _parts(layer))\n',
        "",
        (OWN_FORWARD,),
    ),
    (
        "every fused layer has a class of its own, which no pickle finds",
        f"{DECODER}:fused_class",
        "@cache\ndef fused_class",
        "def fused_class",
        (COPIED,),
    ),
    (
        "gradients are added in place though nobody asked for it",
        f"{READER}:PackedModel.decoder",
        "recompute=self.recompute_activations,\n            accumulate_in_place=self.accumulates_in_place,\n",
        "recompute=self.recompute_activations,\n            accumulate_in_place=True,\n",
        (BY_THE_GRAPH,),
    ),
    (
        "gradients are added in place after a trainer has ended",
        f"{READER}:PackedModel.accumulate_in_place",
        "            self.accumulates_in_place = before\n",
        "            self.accumulates_in_place = True\n",
        (BY_THE_GRAPH,),
    ),
    (
        "a trainer makes each gradient beside the one that stands",
        f"{READER}:PackedModel.accumulate_in_place",
        "before, self.accumulates_in_place = self.accumulates_in_place, True",
        "before = self.accumulates_in_place",
        (TRAINERS,),
    ),
    (
        "a weight's gradient is added past a hook that waits for it",
        f"{PRODUCTS}:is_accumulable",
        "        and not weight._backward_hooks\n",
        "",
        WAITED_FOR,
    ),
    (
        "a weight's gradient is added past a hook that waits for the sum",
        f"{PRODUCTS}:is_accumulable",
        "        and not weight._post_accumulate_grad_hooks\n",
        "",
        # PyTorch calls such a hook where nothing came by the graph, too.
        WAITED_FOR[1:],
    ),
    (
        "of a layer that is computed again a copy of the weights has the gradient",
        f"{PRODUCTS}:LinearResidual.forward",
        "ctx.weight, ctx.accumulate_in_place = weight, accumulate_in_place",
        "ctx.weight, ctx.accumulate_in_place = weight.detach(), accumulate_in_place",
        EVERY_LAYER,
    ),
    (
        "rows that have ended are computed to the end of the batch",
        f"{BATCHING}:ContinuousBatchEngine.drop_finished",
        ("        if len(kept_rows) < len(active):\n            self._grid.select_rows(kept_rows)\n"),
        (
            "        if len(kept_rows):\n"
            "            return torch.arange(len(active))\n"
            "        if not len(kept_rows):\n"
            "            self._grid.select_rows(kept_rows)\n"
        ),
        (ROOM,),
    ),
)
MUTANTS = tuple(
    Mutant(name=name, symbol=symbol, old=old, new=new, checks=checks)
    for name, symbol, old, new, checks in PATCHES
)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_killed(mutant, tmp_path):
    assert survivors(mutant, tmp_path) == []
