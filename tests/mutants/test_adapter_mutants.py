"""Pitfalls of adapters, each as a patch that a test must kill."""

import pytest

from mutants.harness import Mutant, survivors

LIVE, FILES, COMMANDS = "models/test_lora.py", "models/test_lora_files.py", "recipes/test_lora.py"
MERGING = "models/test_lora_merging.py"
OFF = f"{LIVE}::test_off_it_is_the_base_bit_for_bit_and_on_again_what_it_was"
BY_HAND = f"{LIVE}::test_merged_is_the_base_with_the_product_added"
GRADIENTS = f"{LIVE}::test_gradients_of_policy_and_critic_in_one_loss_are_those_of_two_models"
NEW = f"{LIVE}::test_a_new_adapter_changes_nothing_bit_for_bit"
THREE = f"{LIVE}::test_policy_critic_and_reference_on_one_base_are_three_models"
REFERENCE = f"{FILES}::test_a_new_adapter_on_an_opened_one_has_that_model_as_its_reference"
RESUMED = f"{COMMANDS}::test_a_run_that_lost_its_end_goes_on_bit_for_bit"

OURS = f"{LIVE}::test_our_own_layers_compute_an_adapter_as_peft_does"

MUTANTS = (
    Mutant(
        name="our own layers compute the base, whatever adapter is in use",
        symbol="logratio.kernels.fused_decoder:weight_of",
        old="    if linear.disable_adapters or (name := linear.active_adapters[0]) not in linear.lora_A:\n",
        new="    if (name := linear.active_adapters[0]) is not None:\n",
        checks=(OURS, f"{LIVE}::test_what_is_sampled_comes_from_the_adapter_in_use"),
    ),
    Mutant(
        name="our own layers compute an adapter that is off",
        symbol="logratio.kernels.fused_decoder:weight_of",
        old="    if linear.disable_adapters or (name := linear.active_adapters[0]) not in linear.lora_A:\n",
        new="    if (name := linear.active_adapters[0]) not in linear.lora_A:\n",
        checks=(THREE,),
    ),
    Mutant(
        name="our own layers leave out an adapter's scale",
        symbol="logratio.kernels.fused_decoder:weight_of",
        old="return torch.addmm(base, up, down, alpha=linear.scaling[name])",
        new="return torch.addmm(base, up, down)",
        checks=(OURS,),
    ),
    Mutant(
        name="a layer that is computed again takes the adapter that is in use by then",
        symbol="logratio.kernels.fused_decoder:compute_layer",
        old="    attention, workspace = layer.self_attn, packed.workspace\n",
        new=(
            "    weights = weights_of(layer)\n    attention, workspace = layer.self_attn, packed.workspace\n"
        ),
        checks=(OURS,),
    ),
    Mutant(
        name="our own layers compute with the adapter in use, not with the policy's",
        symbol="logratio.policies.language:LanguagePolicy.hidden_states",
        old=(
            "            with self.use_adapter():\n"
            "                return decoder.hidden_states(row, row.source_positions)\n"
        ),
        new=("            return decoder.hidden_states(row, row.source_positions)\n"),
        checks=(THREE,),
    ),
    Mutant(
        name="dropout of an adapter is left out by our own layers",
        symbol="logratio.kernels.fused_decoder:is_linear",
        old="        and all(type(dropout) is nn.Identity for dropout in module.lora_dropout.values())\n",
        new="",
        checks=(f"{LIVE}::test_an_adapter_of_another_kind_is_left_to_peft",),
    ),
    Mutant(
        name="an adapter that is off goes on computing",
        symbol="logratio.models.lora:_switch",
        old="    for layer in layers.values():\n        layer._disable_adapters",
        new="    for layer in layers.values():\n        if name == BASE:\n            continue\n"
        "        layer._disable_adapters",
        checks=(OFF, THREE),
    ),
    Mutant(
        name="the gradient of an adapter is lost after a switch",
        symbol="logratio.models.lora:_switch",
        old="layer._active_adapter = [name]",
        new="layer.set_adapter(name)",
        checks=(GRADIENTS, f"{LIVE}::test_using_nests_and_restores_after_a_fault"),
    ),
    Mutant(
        name="a switch makes no further adapter active",
        symbol="logratio.models.lora:_switch",
        old="    for layer in layers.values():\n        layer._disable_adapters",
        new="    for layer in layers.values():\n        layer._disable_adapters = name == BASE\n"
        "        if layer.active_adapters != [name]:\n            continue\n"
        "        layer._disable_adapters",
        checks=(GRADIENTS, THREE),
    ),
    Mutant(
        name="what was in use is not put back",
        symbol="logratio.models.lora:use_adapter",
        old="    finally:\n        _switch(layers, before)",
        new="    finally:\n        _switch(layers, name)",
        checks=(OFF, THREE),
    ),
    Mutant(
        name="the critic's adapter takes the policy's place when it is added",
        symbol="logratio.models.lora",
        old="    _switch(layers, before)\n\n\ndef linear_layers",
        new="    _switch(layers, name)\n\n\ndef linear_layers",
        checks=(THREE,),
    ),
    Mutant(
        name="the seed of an adapter's draw is ignored",
        symbol="logratio.models.lora:_init_lora",
        old="digest = hashlib.sha256(seed.encode()).digest()",
        new="digest = hashlib.sha256(name.encode()).digest()",
        checks=(f"{LIVE}::test_the_draw_is_a_function_of_seed_and_name",),
    ),
    Mutant(
        name="an adapter is drawn from the global generator",
        symbol="logratio.models.lora:_init_lora",
        old=".uniform_(-bound, bound, generator=generator)",
        new=".uniform_(-bound, bound)",
        checks=(f"{LIVE}::test_the_draw_neither_reads_nor_moves_the_global_generator", RESUMED),
    ),
    Mutant(
        name="an adapter begins with B away from 0",
        symbol="logratio.models.lora:_init_lora",
        old="    up.zero_()",
        new="    up.fill_(1e-3)",
        checks=(NEW, f"{LIVE}::test_a_is_uniform_and_b_is_0"),
    ),
    Mutant(
        name="α is dropped",
        symbol="logratio.models.lora:add_adapter",
        old="lora_alpha=alpha,",
        new="lora_alpha=rank,",
        checks=(BY_HAND, f"{FILES}::test_the_configuration_has_one_order_in_every_process"),
    ),
    Mutant(
        name="an adapter is scaled by α/√r",
        symbol="logratio.models.lora:add_adapter",
        old="lora_alpha=alpha,",
        new="lora_alpha=alpha, use_rslora=True,",
        checks=(BY_HAND,),
    ),
    Mutant(
        name="an adapter is folded in twice",
        symbol="logratio.models.lora:merge_adapter",
        old="        layer.merge(safe_merge=True, adapter_names=[name])\n",
        new="        layer.merge(safe_merge=True, adapter_names=[name])\n"
        "        layer.merged_adapters.clear()\n"
        "        layer.merge(safe_merge=True, adapter_names=[name])\n",
        checks=(
            BY_HAND,
            "training/test_export.py::test_the_model_is_plain_and_the_adapter_stands_beside_it",
            f"{COMMANDS}::test_a_reward_model_s_head_is_trained_beside_its_adapter",
        ),
    ),
    Mutant(
        name="the adapter in use is folded in, whichever was asked for",
        symbol="logratio.models.lora:merge_adapter",
        old="layer.merge(safe_merge=True, adapter_names=[name])",
        new="layer.merge(safe_merge=True)",
        checks=(f"{LIVE}::test_merging_one_adapter_leaves_the_other_out",),
    ),
    Mutant(
        name="a folded model stays frozen",
        symbol="logratio.models.lora:merge_adapter",
        old="return model.requires_grad_(True)",
        new="return model",
        checks=(f"{LIVE}::test_merged_is_a_plain_model_whose_weights_can_be_trained",),
    ),
    Mutant(
        name="a model opened from an adapter stays frozen",
        symbol="logratio.models.lora_merging:merge_adapter_source",
        old="return merged.requires_grad_(True).eval(), notes",
        new="return merged.eval(), notes",
        checks=(
            f"{FILES}::test_an_adapter_is_opened_as_the_plain_model_that_it_makes",
            f"{COMMANDS}::test_whole_weights_are_trained_from_an_adapter",
        ),
    ),
    Mutant(
        name="an adapter that is opened is left out: the reference is the bare base",
        symbol="logratio.models.loading:_merge",
        old=("        model, said = merge_adapter_source(model, adapter)\n"),
        new="        said = ()\n",
        checks=(REFERENCE, f"{FILES}::test_an_adapter_is_opened_as_the_plain_model_that_it_makes"),
    ),
    Mutant(
        name="adapters on one another are merged in the wrong order",
        symbol="logratio.models.loading:_merge",
        old="enumerate(reversed(adapters))",
        new="enumerate(adapters)",
        checks=(f"{FILES}::test_an_adapter_on_an_adapter_is_merged_in_turn",),
    ),
    Mutant(
        name="an adapter is laid on a base with other weights",
        symbol="logratio.models.loading:_merge",
        old="if comparable and known is not None and known != weights_fingerprint(model):",
        new="if comparable and known is not None and not weights_fingerprint(model):",
        checks=(f"{FILES}::test_a_base_with_other_weights_is_refused",),
    ),
    Mutant(
        name="weights of an adapter that are missing are made up",
        symbol="logratio.models.lora_merging:_attach",
        old="strange = [*placeless, *_without_others(model, missing)]",
        new="strange = placeless",
        checks=(f"{FILES}::test_weights_that_do_not_fit_the_base_are_named",),
    ),
    Mutant(
        name="an adapter on tied embeddings is folded into both",
        symbol="logratio.models.lora_merging:merge_adapter_source",
        old=("            untie_weights(model)\n"),
        new="            pass\n",
        checks=(f"{MERGING}::test_a_merged_adapter_computes_what_peft_does[tied: head]",),
    ),
    Mutant(
        name="embeddings that differ are saved as one weight",
        symbol="logratio.models.lora_merging:restore_tie",
        old="        config.tie_word_embeddings = equal\n",
        new="        config.tie_word_embeddings = True\n",
        checks=(f"{MERGING}::test_embeddings_are_two_weights_where_they_differ_and_one_where_not",),
    ),
    Mutant(
        name="a fold that computes something else is not noticed",
        symbol="logratio.models.lora_merging:merge_adapter_source",
        old="    _check_numbers(before, _logprobs(merged), limit, source)\n",
        new="",
        checks=(f"{MERGING}::test_a_fold_that_computes_something_else_is_refused",),
    ),
    Mutant(
        name="rows of an extended vocabulary that are in no file are made up",
        symbol="logratio.models.lora_merging:_widen",
        old="                    weight[before:] = torch.nan\n",
        new="                    weight[before:] = 0.0\n",
        checks=(f"{MERGING}::test_rows_that_are_in_no_file_are_named",),
    ),
    Mutant(
        name="a policy computes with whatever adapter is in use",
        symbol="logratio.policies.language:LanguagePolicy.use_adapter",
        old="return nullcontext() if self.adapter is None else use_adapter(self.model, self.adapter)",
        new="return nullcontext()",
        checks=(THREE, GRADIENTS, REFERENCE),
    ),
    Mutant(
        name="the estimate of memory counts frozen weights as trained",
        symbol="logratio.training.memory_estimate:estimate_bytes",
        old="if parameter.requires_grad]",
        new="if parameter.ndim]",
        checks=("training/test_memory_estimate.py::test_under_an_adapter_the_weights_stand_once",),
    ),
    Mutant(
        name="a base that moves is not noticed",
        symbol="logratio.algorithms.dpo:hash_reference",
        old="return hash_tensor(logprobs) + weights_fingerprint(policy.model, trainable=False)",
        new="return hash_tensor(logprobs)",
        checks=("invariants/test_adapter_invariants.py::test_a_base_that_moves_stops_the_run",),
    ),
    Mutant(
        name="a model folded in wrongly is saved all the same",
        symbol="logratio.training.invariants:check_merged_equals_adapter",
        old="value = float((merged - before).abs().max()) / max(1.0, float(before.abs().max()))",
        new="value = float((merged - merged).abs().max()) / max(1.0, float(before.abs().max()))",
        checks=(
            "invariants/test_adapter_invariants.py::test_an_adapter_folded_in_wrongly_is_not_saved_as_the_model",
        ),
    ),
    Mutant(
        name="another rank is resumed",
        symbol="logratio.recipes.begin:begin_training",
        old='"identity": training.identity() | lora |',
        new='"identity": training.identity() |',
        checks=(f"{COMMANDS}::test_another_adapter_is_not_resumed",),
    ),
    Mutant(
        name="the head of a reward model is frozen with its base",
        symbol="logratio.recipes.reward_model:open_scorer",
        old="    loaded.model.score.requires_grad_(True)\n",
        new="",
        checks=(f"{COMMANDS}::test_a_reward_model_s_head_is_trained_beside_its_adapter",),
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_killed(mutant, tmp_path):
    assert survivors(mutant, tmp_path) == []
