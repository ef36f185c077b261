// Trains a GPT with experts on a text, alone or as a run with checkpoints and logs. See --help.
#include "train/program.hpp"

int main(int argc, char** argv) { return training::program<training::Small, training::MakeMoE>(argc, argv); }
