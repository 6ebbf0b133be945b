"""What the stages share: a folder for each wing of the house.

    page, release                              figures -> the page; files -> what an app team takes
    judging                                    logits -> wrong, too lossy, or fit to ship
    execution, training, conversion            a file -> logits; sequences -> weights; a checkpoint -> files
    data, network, files, coreml_reference     tables, nets, files and Core ML programs as such
    kit                                        what every stage is made with

A wing imports from wings further down alone; `coreml_reference` imports nothing but itself. The kit comes before all
else, since it pins numeric kernels before a library loads them; no stage depends on this file, which does nothing more.
"""

import shared.kit as shared_kit  # noqa: F401 - for what importing it does
