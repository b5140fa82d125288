"""Where an attack's distance and its gradient toward the inputs come from.

Every way forms the dummy gradient of each recovery with an autograd graph toward the inputs, asks the fused
distance for its value and for V = dD/d(dummy gradient) outside of autograd, and sends V back through the
graph, toward the inputs alone. They differ in how the dummy gradients of R recoveries are formed; an attack
sees only `Matching`.
"""
